"""Functions for the tests of calls in a killable process."""

import os
import time


def make(offset=0):
    def call(argument):
        print("noise on standard output")
        match argument:
            case "sleep":
                time.sleep(60)
            case "raise":
                raise ValueError("hostile")
            case "exit":
                os._exit(3)
            case "memory":
                return len(bytearray(64 << 30))
            case "power":
                return 9 ** (9**9)  # C code: no signal handler runs before it is done
            case "write":
                with open("written", "w") as file:
                    file.write("x" * 10_000)
            case "work":
                until_s = time.process_time() + 0.5
                while time.process_time() < until_s:
                    pass
                return "done"
            case "pid":
                return os.getpid()
        return argument + offset

    return call


def fail():
    raise RuntimeError("no such library")
