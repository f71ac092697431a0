"""A run is followed: the page of its folder, to this machine alone, and nothing is written."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading

from finemem_jax import main
from finemem_jax.files import JsonLines
from finemem_jax.reporting.report import write_report
from finemem_jax.reporting.watch import Followed, server_of
from tests.reporting import runs


@contextlib.contextmanager
def serving(workdir, seconds=0.2):
    """The port of a server of the folder."""
    server = server_of(workdir, 0, seconds)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(port, path="/", host=None, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{port}"})
    reply = connection.getresponse()
    return reply.status, reply.read().decode("utf-8")


def state(folder):
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_it_answers_to_this_machine_alone_and_only_reads(tmp_path):
    run = runs.write_run(tmp_path, episodes=1, steps=2)
    before = state(tmp_path)
    with serving(run) as port:
        status, page = ask(port)
        assert status == 200 and "connect-src 'self'" in page and "<script>window.hacked" not in page
        assert ask(port, host=f"localhost:{port}")[0] == 200
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}"):
            assert ask(port, host=host)[0] == 403
        assert ask(port, "/config.json")[0] == ask(port, "/../config.json")[0] == 404
        for method in ("POST", "PUT", "DELETE"):
            assert ask(port, method=method)[0] == 501
        _, data = ask(port, "/data")
        version = json.loads(data)["follow"]["version"]
        assert ask(port, f"/data?after={version}") == (304, "")
        JsonLines(run / "metrics.jsonl").write(2, {"accuracy": 0.5})
        before = state(tmp_path)
        status, data = ask(port, f"/data?after={version}")
        assert status == 200 and json.loads(data)["facts"][3] == ["steps", "3 of 2"]
    assert state(tmp_path) == before


def test_the_file_of_a_run_asks_nobody(tmp_path):
    page = write_report(runs.write_run(tmp_path, episodes=1, steps=1)).read_text("utf-8")
    assert "connect-src" not in page.split("<style>")[0] and '"follow"' not in page


def test_mistakes_are_named(tmp_path, capsys):
    assert main.main(["watch", f"--workdir={tmp_path}"]) == 2
    assert "no run in" in capsys.readouterr().err
    run = runs.write_run(tmp_path, episodes=1, steps=1)
    assert main.main(["watch", f"--workdir={run}", "--port=70000"]) == 2
    assert "--port=70000" in capsys.readouterr().err
    with serving(run) as port:
        assert main.main(["watch", f"--workdir={run}", f"--port={port}"]) == 2
        assert f"--port={port}" in capsys.readouterr().err


def test_growing_records_are_another_version(tmp_path):
    run = runs.write_run(tmp_path, episodes=1, steps=1)
    followed = Followed(run, 1.0)
    first = followed.version()
    assert followed.version() == first and followed.data() is followed.data()
    JsonLines(run / "rollouts.jsonl").write(1, {"episode": "x"})
    assert followed.version() != first
