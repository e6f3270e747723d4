"""Sends numbered records with Python's fluent-logger. See ../README.md for the command line."""

import argparse
import sys
import time

from fluent.sender import EventTime, FluentSender

# The library takes a send that lasts longer for an error and sends its whole buffer again later, which doubles what
# had arrived; a server that holds a sender back is no error.
SEND_TIMEOUT_SECONDS = 120


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tag-prefix", required=True)
    parser.add_argument("--tags", type=int, default=1)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--stream", required=True)
    parser.add_argument("--mode", choices=["message"], default="message")
    parser.add_argument("--ack", action="store_true")
    parser.add_argument("--event-time", action="store_true")
    args = parser.parse_args()
    if args.ack:
        parser.error("fluent-logger has no acknowledgements")

    sender = FluentSender(args.tag_prefix, host="127.0.0.1", port=args.port, timeout=SEND_TIMEOUT_SECONDS)
    for seq in range(args.count):
        now = EventTime.from_unix_nano(time.time_ns()) if args.event_time else int(time.time())
        record = {"stream": args.stream, "seq": seq, "message": f"python event {seq} of {args.stream}"}
        if not sender.emit_with_time(str(seq % args.tags), now, record):
            sys.exit(f"record {seq}: {sender.last_error}")
    sender.close()
    print(f"sent {args.count}")


main()
