// Sends numbered records with Node's @fluent-org/logger. See ../README.md for the command line.
"use strict";

const { readFileSync } = require("node:fs");
const { parseArgs } = require("node:util");
const { FluentClient } = require("@fluent-org/logger");

const MODES = {
  message: "Message",
  forward: "Forward",
  packed: "PackedForward",
  compressed: "CompressedPackedForward",
};
// Records that may be on their way at once; the library packs those of one tag together.
const WINDOW = 1000;
const ACK_TIMEOUT_MS = 60_000;

async function main() {
  const { values: args } = parseArgs({
    options: {
      port: { type: "string" },
      "tag-prefix": { type: "string" },
      tags: { type: "string", default: "1" },
      count: { type: "string" },
      stream: { type: "string" },
      mode: { type: "string", default: "packed" },
      ack: { type: "boolean", default: false },
      "event-time": { type: "boolean", default: false },
    },
  });
  const eventMode = MODES[args.mode];
  if (!eventMode) throw new Error(`no such mode: ${args.mode}`);
  const count = Number(args.count);
  const tags = Number(args.tags);

  const client = new FluentClient(args["tag-prefix"], {
    eventMode,
    socket: { host: "127.0.0.1", port: Number(args.port), tls: tls() },
    security: security(),
    milliseconds: args["event-time"],
    ack: args.ack ? { ackTimeout: ACK_TIMEOUT_MS } : undefined,
    disconnect: { waitForPending: true },
    // A server that restarts is away for some seconds.
    eventRetry: args.ack ? { attempts: 100, maxDelay: 500 } : undefined,
  });
  for (let first = 0; first < count; first += WINDOW) {
    const window = [];
    for (let seq = first; seq < Math.min(first + WINDOW, count); seq++) {
      const message = `node event ${seq} of ${args.stream}`;
      window.push(client.emit(String(seq % tags), { stream: args.stream, seq, message }));
    }
    await Promise.all(window);
    if (args.ack) console.log(`acknowledged ${Math.min(first + WINDOW, count)}`);
  }
  await client.disconnect();
  console.log(`sent ${count}`);
  // All is acknowledged, or at least with the kernel; the library's socket would keep the program alive for ever.
  process.exit(0);
}

// Certificates and keys come by the environment, as they would in a container.
function tls() {
  const ca = process.env.WEIR_TEST_CA;
  if (!ca) return undefined;
  return { ca: readFileSync(ca), servername: process.env.WEIR_TEST_SERVERNAME };
}

function security() {
  const { WEIR_TEST_SHARED_KEY: sharedKey, WEIR_TEST_USERNAME: username, WEIR_TEST_PASSWORD: password } = process.env;
  return sharedKey ? { clientHostname: "node-client", sharedKey, username, password } : undefined;
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
