#!/usr/bin/python3
"""A tool that can be a persistent worker, and does what each line of its arguments says."""

import base64
import json
import os
import subprocess
import sys
import time

JSON = "--json" in sys.argv
PERSISTENT = "--persistent_worker" in sys.argv
# Each worker has process ids of its own, so one may have that of another.
ME = int.from_bytes(os.urandom(4), "big")
served = 0
held = None


def do(line, said):
    """Does what one argument says; what it tells goes to `said`. Gives the exit code, if there is one."""
    global held
    word, _, rest = line.partition(" ")
    if word == "tell":
        said.append(f"pid {ME} before {served} {'warm' if PERSISTENT else 'cold'}")
    elif word == "echo":
        said.append(rest)
    elif word == "where":
        said.append(os.getcwd())
    elif word == "cat":
        try:
            with open(rest) as file:
                said.append(file.read().strip())
        except OSError as error:
            said.append(f"no {rest}: {error.strerror}")
    elif word == "list":
        found = [os.path.join(top, name) for top, _, names in os.walk(rest) for name in names]
        said.append(" ".join(sorted(found)))
    elif word == "write":
        path, _, text = rest.partition(" ")
        with open(path, "w") as file:
            file.write(text)
    elif word == "large":
        with open(rest, "wb") as file:
            file.write(b"large" * 20000)
    elif word == "hold":
        held = open(rest, "r+")
    elif word == "scribble":
        held.seek(0)
        held.write(rest)
        held.flush()
    elif word == "append":
        try:
            open(rest, "a").write("!")
            said.append("written")
        except OSError as error:
            said.append(error.strerror)
    elif word == "exit":
        return int(rest)
    elif word == "sleep":
        time.sleep(float(rest))
    elif word == "leave":
        subprocess.Popen(["/bin/sleep", rest], start_new_session=True)
    elif word == "crash" and PERSISTENT:
        print("about to crash", file=sys.stderr, flush=True)
        os._exit(7)
    elif word == "crash-if-warm" and PERSISTENT and served:
        os.kill(os.getpid(), 9)
    elif word == "print" and PERSISTENT:
        os.write(1, rest.encode())
    elif word == "bytes" and PERSISTENT:
        os.write(1, bytes.fromhex(rest))
    elif word == "close" and PERSISTENT:
        os.close(1)
        time.sleep(600)
    return None


def run(arguments):
    said, code = [], 0
    for line in arguments:
        code = do(line, said) or code
    return code, "".join(f"{text}\n" for text in said)


def read(length):
    data = sys.stdin.buffer.read(length)
    if len(data) < length:
        sys.exit(0)
    return data


def number(take):
    value, shift = 0, 0
    while True:
        byte = take(1)[0]
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def fields(message):
    at = 0

    def take(length):
        nonlocal at
        at += length
        return message[at - length:at]

    while at < len(message):
        key = number(take)
        if key & 7 == 2:
            yield key >> 3, take(number(take))
        else:
            yield key >> 3, number(take)


def request():
    """The arguments of the next request, and its inputs as path and digest."""
    if JSON:
        line = sys.stdin.readline()
        if not line:
            sys.exit(0)
        message = json.loads(line)
        assert not message.get("requestId")
        inputs = {one["path"]: base64.b64decode(one["digest"]) for one in message.get("inputs", [])}
        return message.get("arguments", []), inputs
    arguments, inputs = [], {}
    for field, value in fields(read(number(read))):
        if field == 1:
            arguments.append(value.decode())
        elif field == 2:
            one = dict(fields(value))
            inputs[one[1].decode()] = one[2]
        else:
            raise ValueError(f"field {field}")
    return arguments, inputs


def answer(code, output):
    if JSON:
        print(json.dumps({"exitCode": code, "output": output}), flush=True)
        return
    text = output.encode()
    message = (b"\x08" + varint(code) if code else b"") + (b"\x12" + varint(len(text)) + text if text else b"")
    os.write(1, varint(len(message)) + message)


def main():
    global served
    if not PERSISTENT:
        named = [argument[1:] for argument in sys.argv[1:] if argument.startswith("@")]
        code, output = run([line.rstrip("\n") for path in named for line in open(path)])
        sys.stderr.write(output)
        sys.exit(code)
    while True:
        arguments, inputs = request()
        if "inputs" in arguments:
            arguments.append("echo " + " ".join(f"{path}={digest.decode()[:8]}" for path, digest in inputs.items()))
        answer(*run(arguments))
        served += 1


main()
