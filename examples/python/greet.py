# A typed function in Python.
#
#     pip install componentize-py==0.25.1
#     $ componentize-py --quiet --wit-path ../wit/greet.wit --world greet componentize greet --output greet.wasm
#     neargate run --invoke greet greet.wasm -- '"Ada"' 2
#     ["hello, Ada!","hello, Ada!"]

from componentize_py_types import Err


class WitWorld:
    def greet(self, name: str, times: int) -> list[str]:
        if not name:
            raise Err("nobody to greet")
        return [f"hello, {name}!"] * times
