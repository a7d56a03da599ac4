// A program in JavaScript: a component that exports `wasi:cli/run`.
//
//     npm install componentize-qjs@0.4.5
//     $ componentize-qjs --sync --opt-size --wit ../wit/command.wit --world script --js hello.js --output hello.wasm
//     neargate run hello.wasm -- world
//     hello, world

import { getArguments } from "wasi:cli/environment@0.2.6";
import { getStdout } from "wasi:cli/stdout@0.2.6";

export const run = {
  run() {
    print(`hello, ${getArguments().slice(1).join(" ")}\n`);
  },
};

function print(text) {
  // The engine has no TextEncoder; percent-encoding is UTF-8 too.
  const bytes = Array.from(unescape(encodeURIComponent(text)), (byte) => byte.charCodeAt(0));
  getStdout().blockingWriteAndFlush(bytes);
}
