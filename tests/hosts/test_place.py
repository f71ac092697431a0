"""Which process this is: flags, variables, SLURM, GKE, and a TPU's metadata server."""

from __future__ import annotations

import http.server
import threading

import pytest

from finemem_jax.config import UserError
from finemem_jax.hosts.place import Place, find_place, first_host

SLURM = {
    "SLURM_JOB_ID": "100",
    "SLURM_STEP_NODELIST": "gpu[007-008]",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
}


def place(env=None, **flags):
    return find_place(**flags, env={"JAX_PLATFORMS": "cpu"} | (env or {}))


def test_a_run_of_one_process_needs_nothing():
    assert place() is None
    assert place(coordinator="a:1", processes=1, process=0) is None
    assert place({"JAX_COORDINATOR_ADDRESS": "a:1"}) is None


def test_flags_win_over_the_environment():
    assert place(SLURM, coordinator="a:1", processes=4, process=3) == Place("a:1", 4, 3)


def test_half_a_place_names_the_missing_flag():
    with pytest.raises(UserError, match=r"--processes and --process: --process\?"):
        place(coordinator="a:1", processes=2)
    with pytest.raises(UserError, match="JAX_PROCESS_ID=None"):
        place({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2"})
    with pytest.raises(UserError, match="process 2 of 2"):
        place(coordinator="a:1", processes=2, process=2)
    with pytest.raises(UserError, match="HOST:PORT"):
        place(coordinator="a", processes=2, process=1)


def test_variables_name_a_place():
    env = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    found = place(env)
    assert (found.coordinator, found.processes, found.process) == ("a:1", 2, 1)
    assert place(env | {"JAX_NUM_PROCESSES": "1"}) is None


def test_a_slurm_task_knows_its_node_and_devices():
    found = place(SLURM)
    assert (found.coordinator, found.processes, found.process) == ("gpu007:61540", 2, 1)
    assert found.local_devices is None  # the only task of its node takes all devices
    assert place(SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_LOCALID": "1"}).local_devices == (1,)
    batch = {k: v for k, v in SLURM.items() if k != "SLURM_STEP_NODELIST"}
    assert place(batch) is None  # the batch script itself is no process of the run


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("a1", "a1"),
        ("a1,b2", "a1"),
        ("a[003-010,12],b", "a003"),
        ("a[7,9]", "a7"),
        ("long-name-12,x[1-2]", "long-name-12"),
    ],
)
def test_the_first_host_of_a_node_list(nodes, first):
    assert first_host(nodes) == first


def test_gke_names_the_workers():
    found = place({"TPU_WORKER_HOSTNAMES": "w0,w1,w2", "TPU_WORKER_ID": "2"})
    assert (found.coordinator, found.processes, found.process) == ("w0:8476", 3, 2)
    assert place({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}) is None


@pytest.mark.parametrize("endpoints", ["10.0.0.5,10.0.0.6", "w0:1:10.0.0.5,w1:2:10.0.0.6"])
def test_a_tpu_vm_is_asked_for_its_metadata(endpoints, monkeypatch):
    monkeypatch.setattr("finemem_jax.hosts.place.METADATA_SECONDS", 300.0)  # a busy machine is slow to answer itself
    answers = {"agent-worker-number": "1", "worker-network-endpoints": endpoints}

    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            text = answers.get(self.path.rpartition("/")[2])
            is_known = text is not None and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if is_known else 404)
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = {"GCE_METADATA_HOST": f"127.0.0.1:{server.server_port}"}
        found = find_place(env=env)
        assert (found.coordinator, found.processes, found.process) == ("10.0.0.5:8476", 2, 1)
        assert find_place(env=env | {"JAX_PLATFORMS": "cpu"}) is None
        del answers["worker-network-endpoints"]
        assert find_place(env=env) is None
        server.shutdown()


@pytest.mark.parametrize(
    ("env", "flags", "line"),
    [
        ({}, {"coordinator": "a:1", "processes": 0, "process": 0}, r"0 processes \(flags\): at least 1"),
        ({}, {"coordinator": "a:1", "processes": 1, "process": 5}, "process 5 of 1 processes"),
        ({}, {"coordinator": "a:²", "processes": 2, "process": 0}, "HOST:PORT"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "²", "JAX_PROCESS_ID": "0"}, {}, "needs all of"),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "many"}, {}, "SLURM_STEP_NUM_TASKS='many'"),
        ({k: v for k, v in SLURM.items() if k != "SLURM_JOB_ID"}, {}, "SLURM_JOB_ID=''"),
        ({k: v for k, v in SLURM.items() if k != "SLURM_PROCID"}, {}, "SLURM_PROCID=''"),
        ({"TPU_WORKER_HOSTNAMES": "w0,w1", "TPU_WORKER_ID": "x"}, {}, "TPU_WORKER_ID='x'"),
        (SLURM | {"JAX_COORDINATOR_PORT": "http"}, {}, "HOST:PORT"),
    ],
)
def test_what_is_no_place_is_one_line(env, flags, line):
    with pytest.raises(UserError, match=line) as caught:
        place(env, **flags)
    assert "\n" not in str(caught.value)
