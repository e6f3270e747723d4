//! The codec: any bytes, in any pieces, give the same events, and the scanner finds what a full decoder finds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_forward::scan::{ScanError, skip};
use weir_forward::{Event, Limits, Session};

const LIMITS: Limits =
    Limits { message_bytes_max: 1 << 16, unpacked_bytes_max: 1 << 16, pack_bytes_max: 1 << 12 };

fuzz_target!(|input: &[u8]| {
    let Some((&piece, bytes)) = input.split_first() else { return };
    let whole = totals([bytes]);
    let pieces = totals(bytes.chunks(usize::from(piece).max(1)));
    assert_eq!(whole, pieces, "fragments do not matter");
    agree(bytes);
});

/// Events, bytes of entries, acknowledgements, and how it ended.
fn totals<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (u64, u64, Vec<u8>, Option<&'static str>) {
    let mut session = Session::new(LIMITS);
    let (mut events, mut size, mut acks) = (0, 0, Vec::new());
    for piece in pieces {
        session.buffer().extend_from_slice(piece);
        loop {
            match session.next(1_700_000_000_000_000_000) {
                Ok(None) => break,
                Ok(Some(Event::Batch(batch))) => {
                    events += batch.header.events();
                    size += batch.header.unpacked_bytes;
                    acks.extend_from_slice(&batch.acks);
                }
                Ok(Some(Event::Ack { ack, .. })) => acks.extend_from_slice(&ack),
                Ok(Some(Event::Skipped(_))) => {}
                Err(violation) if violation.refused.is_some() => {}
                Err(violation) => return (events, size, acks, Some(violation.fault.label())),
            }
        }
    }
    (events, size, acks, None)
}

fn agree(bytes: &[u8]) {
    let mut rest = bytes;
    match (rmpv::decode::read_value_with_max_depth(&mut rest, 127), skip(bytes)) {
        (Ok(_), Ok(skipped)) => assert_eq!(skipped.len(), bytes.len() - rest.len()),
        (Err(_), Err(_)) => {}
        // The decoder takes the one byte that MessagePack never uses for a nil.
        (Ok(_), Err(ScanError::Malformed { at })) => assert_eq!(bytes[at], 0xc1),
        // It counts depth in another way.
        (Ok(_), Err(ScanError::TooDeep { .. })) => {}
        (Err(rmpv::decode::Error::DepthLimitExceeded), Ok(_)) => {}
        (decoded, skipped) => panic!("{decoded:?} but {skipped:?}"),
    }
}
