// An HTTP handler in JavaScript, which answers `fetch` events as a service worker does.
//
//     npm install @bytecodealliance/componentize-js@0.23.0
//     $ componentize-js web.js --wit ../wit/web.wit --world-name web --out web.wasm
//     neargate run --http 127.0.0.1:8080 web.wasm &
//     curl http://127.0.0.1:8080/world
//     hello, world
//     curl --data 'anything' http://127.0.0.1:8080/echo
//     anything

addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

function answer(request) {
  const path = decodeURIComponent(new URL(request.url).pathname);
  return new Response(path === "/echo" ? request.body : `hello, ${path.slice(1)}\n`);
}
