//! The decompressors: never more than the limit, and what inflates is what was packed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_forward::unpack::unpack;
use weir_model::Encoding;

const LIMIT: usize = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let Some((&kind, bytes)) = input.split_first() else { return };
    let encoding = if kind % 2 == 0 { Encoding::Gzip } else { Encoding::Zstd };
    if let Ok(plain) = unpack(encoding, bytes, LIMIT) {
        assert!(plain.len() <= LIMIT);
        // Twice the stream is twice the bytes: members and frames are joined.
        if !bytes.is_empty() && plain.len() <= LIMIT / 2 {
            let twice =
                unpack(encoding, &bytes.repeat(2), LIMIT).expect("each of them was sound").into_owned();
            assert_eq!(twice, plain.repeat(2));
        }
    }
});
