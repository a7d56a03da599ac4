// A typed function in JavaScript.
//
//     npm install componentize-qjs@0.4.5
//     $ componentize-qjs --sync --opt-size --wit ../wit/greet.wit --js greet.js --output greet.wasm
//     neargate run --invoke greet greet.wasm -- '"Ada"' 2
//     ["hello, Ada!","hello, Ada!"]

export function greet(name, times) {
  if (name === "") {
    throw "nobody to greet";
  }
  return Array(times).fill(`hello, ${name}!`);
}
