# A program in Python: a component that exports `wasi:cli/run`.
#
#     pip install componentize-py==0.25.1
#     $ componentize-py --quiet --wit-path ../wit/command.wit --world program componentize hello --output hello.wasm
#     neargate run hello.wasm -- world
#     hello, world

import sys


class Run:
    def run(self) -> None:
        print("hello,", *sys.argv[1:])
