// A module of WASI preview 1, by the C compiler in a Python package.
//
//     pip install ziglang==0.17.0
//     $ python -m ziglang cc -target wasm32-wasi -Os -s hello.c -o hello.wasm
//     neargate run hello.wasm -- world
//     hello, world

#include <stdio.h>

int main(int argc, char **argv) {
    fputs("hello,", stdout);
    for (int i = 1; i < argc; i++) {
        printf(" %s", argv[i]);
    }
    puts("");
    return 0;
}
