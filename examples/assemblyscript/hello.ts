// A module of WASI preview 1 in AssemblyScript, which has no library for WASI: it calls the host itself.
//
//     npm install assemblyscript@0.28.20
//     $ asc hello.ts --optimize --exportStart _start --use abort=hello/abort --outFile hello.wasm
//     neargate run hello.wasm -- world
//     hello, world

@external("wasi_snapshot_preview1", "args_sizes_get")
declare function args_sizes_get(count: usize, size: usize): u32;
@external("wasi_snapshot_preview1", "args_get")
declare function args_get(pointers: usize, bytes: usize): u32;
@external("wasi_snapshot_preview1", "fd_write")
declare function fd_write(fd: u32, list: usize, count: u32, written: usize): u32;
@external("wasi_snapshot_preview1", "proc_exit")
declare function proc_exit(code: u32): void;

// The compiler is told to use this instead of its own, which imports more than WASI has.
function abort(message: string | null, file: string | null, line: u32, column: u32): void {
  proc_exit(134);
}

function args(): string[] {
  const sizes = new StaticArray<u32>(2);
  args_sizes_get(changetype<usize>(sizes), changetype<usize>(sizes) + sizeof<u32>());
  const pointers = new StaticArray<usize>(sizes[0]);
  const bytes = new ArrayBuffer(sizes[1]);
  args_get(changetype<usize>(pointers), changetype<usize>(bytes));
  const found: string[] = [];
  for (let i = 0; i < pointers.length; i++) {
    found.push(String.UTF8.decodeUnsafe(pointers[i], bytes.byteLength, true));
  }
  return found;
}

function print(text: string): void {
  const bytes = String.UTF8.encode(text);
  const list: StaticArray<usize> = [changetype<usize>(bytes), bytes.byteLength];
  const written = new StaticArray<usize>(1);
  fd_write(1, changetype<usize>(list), 1, changetype<usize>(written));
}

print(`hello, ${args().slice(1).join(" ")}\n`);
