"""A command `python` for small repositories, whose stages start in moments: forks of a process that has the libraries.

A stage imports for seconds and then computes for less. `python -m pipeline.stages.<stage> <key>` and `python -c <code>`
run as ever, with the code of their own repository; other commands of `python` run the real one. A fork outlives the
kill of its command.
"""

import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[1]
LIBRARIES = "joblib lightgbm matplotlib.pyplot numba onnx onnxruntime pandas pyarrow.parquet scipy.stats torch xgboost"
CLIENT = """#!{python} -IS
import json, os, socket, sys
words = sys.argv[1:]
if len(words) < 2 or not (words[0] == "-c" or words[0] == "-m" and words[1].startswith("pipeline.stages.")):
    os.execv({python!r}, [{python!r}, *words])
request = json.dumps({{"folder": os.getcwd(), "words": words, "environment": dict(os.environ)}}).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [len(request).to_bytes(4, "big")], [1, 2])
    server.sendall(request)
    answer = server.recv(1)
sys.exit(answer[0] if answer else "the stage ended without a status")
"""


@contextlib.contextmanager
def start(folder: Path) -> Iterator[Path]:
    """Start the server; yield the folder of its command `python`, to be the first of PATH."""
    address, program = folder / "socket", folder / "python"
    program.write_text(CLIENT.format(python=sys.executable, address=str(address)))
    program.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = str(ROOT)
    words = [sys.executable, "-P", __file__, str(address)]
    server = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield folder
    finally:
        server.terminate()
        server.communicate()


def load_libraries() -> None:
    """Import all libraries with the arithmetic that the package pins, and none of its own modules."""
    for name in ("pipeline", *LIBRARIES.split()):
        import_module(name)
    del sys.modules["pipeline"]
    sys.path.remove(str(ROOT))


def receive(connection: socket.socket) -> tuple[dict, list[int]]:
    """Return a request, and where its output goes."""
    size, files, _, _ = socket.recv_fds(connection, 4, 2)
    with connection.makefile("rb") as stream:
        return json.loads(stream.read(int.from_bytes(size, "big"))), files


def become(request: dict, files: list[int]) -> None:
    """Make this process that of the request: its folder, environment, output and arguments."""
    os.environ.clear()
    os.environ.update(request["environment"])
    for source, target in zip(files, (1, 2), strict=True):
        os.dup2(source, target)
        os.close(source)
    os.chdir(request["folder"])
    sys.path.insert(0, request["folder"])
    sys.argv = request["words"][1:]


def serve(address: str) -> dict:
    """Fork for each request: return it in the process that is to run it, and wait for its end in another one."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen(16)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            connection, _ = server.accept()
            if not os.fork():
                break
            connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, files = receive(connection)
    child = os.fork()
    if not child:
        connection.close()
        become(request, files)
        return request
    _, status = os.waitpid(child, 0)
    connection.sendall(bytes([max(os.waitstatus_to_exitcode(status), 0) or int(status != 0)]))
    os._exit(0)


def end(status: int) -> NoReturn:
    """End this process at once: libraries would join threads that a fork does not have.

    The workers of joblib end with it: as orphans they would hold the command's output open for five minutes.
    """
    executor = getattr(sys.modules.get("joblib.externals.loky.reusable_executor"), "_executor", None)
    if executor is not None:
        executor.shutdown(wait=True, kill_workers=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run(option: str, program: str) -> None:
    """Run a module or code as `python -m` or `python -c` does, and end."""
    sys.excepthook = lambda *error: (sys.__excepthook__(*error), end(1))
    try:
        if option == "-c":
            exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as stopped:
        if isinstance(stopped.code, str):
            sys.stderr.write(f"{stopped.code}\n")
        end(stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None))
    end(0)


if __name__ == "__main__":
    load_libraries()
    run(*serve(sys.argv[1])["words"][:2])
