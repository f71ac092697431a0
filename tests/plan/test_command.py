"""Planning a machine: what a compiled program's text says, the formulas, the exit codes; slow: a real topology."""

import importlib.util
from types import SimpleNamespace

import jax
import pytest

from finemem_jax import config, exits, main
from finemem_jax.config import UserError
from finemem_jax.nn.sharding import make_mesh
from finemem_jax.plan import command, programs
from finemem_jax.plan.collectives import collectives, gathered_shapes

TEXT = """\
HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(f32[] %x, f32[] %y)
}

%layer (p: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %start = (bf16[2,4]{1,0}, bf16[8,4]{1,0}) all-gather-start(bf16[2,4]{1,0} %w), dimensions={0}
  %done = bf16[8,4]{1,0} all-gather-done((bf16[2,4]{1,0}, bf16[8,4]{1,0}) %start)
  ROOT %t = (s32[], bf16[8,4]) tuple(%i, %done)
}

%below.7 (p: (s32[])) -> pred[] {
  %seven = s32[]{:T(128)} constant(7), metadata={op_name="jit(step)/while"}
  %turn = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%turn, %seven), direction=LT, metadata={op_name="jit(step)/while"}
}

%shift (p: (s32[])) -> (s32[]) {
  %sent = f32[8]{0} collective-permute(f32[8]{0} %x), channel_id=3, source_target_pairs={{0,1},{1,0}}
  %fused = (f32[8]{0}) fusion(f32[8]{0} %sent), kind=kCustom, calls=%overlapped
}

%overlapped (p: f32[8]) -> (f32[8]) {
  %again = f32[8]{0} collective-permute(f32[8]{0} %p), channel_id=3, source_target_pairs={{0,1},{1,0}}
  ROOT %t = (f32[8]{0}) tuple(f32[8]{0} %again)
}

%microbatch (p: (s32[])) -> (s32[]) {
  %w7 = (s32[]) while((s32[]) %a), condition=%below.7, body=%shift
  %w = (s32[], bf16[8,4]) while((s32[], bf16[8,4]) %a), condition=%c, body=%layer, backend_config={"known_trip_count":{"n":"36"}}
  ROOT %r = f32[16]{0} all-reduce(f32[16]{0} %g), replica_groups={}, to_apply=%add
}

ENTRY %main (a: f32[16]) -> f32[16] {
  %m = (s32[]) while((s32[]) %z), condition=%c, body=%microbatch
  ROOT %out = f32[4]{0} reduce-scatter(f32[16]{0} %q), dimensions={0}, to_apply=%add
}
"""  # noqa: E501


def test_collectives_count_every_turn_of_a_loop_of_known_length():
    assert collectives(TEXT) == {
        "all-gather": (36, 36 * 8 * 4 * 2),
        "all-reduce": (1, 16 * 4),
        "collective-permute": (7, 7 * 8 * 4),
        "reduce-scatter": (1, 4 * 4),
    }
    assert gathered_shapes(TEXT) == [(2, 4), (8, 4)]
    # Were the vocabulary 8: weights [vocab, embed] of width 4 are gathered, but of width 5 it would be logits.
    assert not command.gathers_logits(TEXT.replace("[2,4]", "[1,4]"), 8, 4) and command.gathers_logits(TEXT, 8, 5)


@pytest.fixture(scope="module")
def paper():
    return main.load_config("configs/finemem_qwen3_4b.py", [])


@pytest.fixture(scope="module")
def tiny():
    cfg = config.default()
    cfg.model.preset, cfg.model.dtype = "tiny", "float32"
    cfg.optimizer.bf16_momentum = True
    return config.from_ml_collections(cfg)


def test_gpus_by_formula_fit_or_name_the_knobs(paper, capsys):
    assert main.main(["plan", "--config=configs/finemem_qwen3_4b.py", "--gpu-memory=80"]) == 0
    assert "fits" in capsys.readouterr().out
    assert command.plan(paper, gpu_memory=8, gpus=2) == exits.DOES_NOT_FIT == 4
    out = capsys.readouterr().out
    assert "does not fit: train needs" in out and "config.train.microbatch_rows=4" in out
    assert "config.engine.slots=8" in out and "config.optimizer.bf16_momentum=True" in out


def test_what_is_held_is_split_over_the_mesh(tiny):
    model = programs.planned_model(tiny)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(programs.abstract_params(model)))
    whole, split = (command.resident_bytes(tiny, model, make_mesh(data=8 // ways, fsdp=ways)) for ways in (1, 8))
    assert whole.params == 4 * parameters == whole.reference
    assert whole.optimizer == pytest.approx((2 + 4) * parameters, rel=1e-3)  # a bfloat16 and a float32 moment
    assert whole.total / 8 < split.total < whole.total / 7  # norms are kept whole


def test_the_published_name_of_a_preset_is_enough(paper):
    model = programs.planned_model(paper)
    assert (model.cfg.num_layers, model.cfg.hidden_size, model.cfg.remat) == (36, 2560, "full")


def test_flops_are_those_counted_by_hand(paper):
    forward, both = command.flops_per_token(paper, programs.planned_model(paper))
    body = 36 * (2560 * 128 * (32 + 8 + 8 + 32) + 3 * 2560 * 9728)
    assert forward == pytest.approx(2 * (body + 151936 * 2560) + 36 * 4 * 32 * 128 * 8192 / 2, rel=1e-3)
    assert both == 4 * forward  # remat computes forward twice


@pytest.mark.parametrize("options", [["--topology=v9:2x2"], ["--topology=v5e"], []])
def test_an_unknown_topology_is_one_line(options, capsys):
    assert main.main(["plan", "--config=configs/finemem_qwen3_4b.py", *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--topology" in error


def test_rows_that_do_not_split_over_the_chips_name_the_knob(paper):
    mesh = SimpleNamespace(shape={"data": 1, "fsdp": 3})
    with pytest.raises(UserError, match=r"microbatch_rows=8 on each of 2 host\(s\) are 16 rows.*a multiple of 2"):
        programs.batch_shapes(paper, programs.planned_model(paper), mesh, 2, has_reference=False)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs pip install 'finemem_jax[plan]'")
def test_the_paper_setting_compiles_and_fits_on_sixteen_v5e(paper):
    model = programs.planned_model(paper)
    chip, devices = programs.topology_devices("v5e:4x4")
    mesh = make_mesh(paper.mesh.data, paper.mesh.fsdp, paper.mesh.tensor, devices)
    lower, arguments = programs.train_program(paper, model, mesh, hosts=4)
    ((_, program),) = programs.compiled({"train": lower(*arguments)})
    assert program.has_pallas
    assert program.arguments + program.temporary + command.resident_bytes(paper, model, mesh).reference < chip.memory
    # The head's weights are gathered; logits, which have a row or a chunk beside the vocabulary, never are.
    assert not command.gathers_logits(program.text, model.cfg.vocab_size, model.cfg.hidden_size)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], "needs one of --topology=NAME:SHAPE and --gpu-memory=GIB"),
        (["--gpu-memory=80", "--topology=v5e:4x4"], "needs one of --topology=NAME:SHAPE and --gpu-memory=GIB"),
        (["--gpu-memory=-80"], "--gpu-memory=-80: must be the GiB of one GPU, more than 0"),
        (["--gpu-memory=0"], "--gpu-memory=0: must be the GiB"),
        (["--gpu-memory=nan"], "--gpu-memory=nan: must be the GiB"),
        (["--gpu-memory=inf"], "--gpu-memory=inf: must be the GiB"),
        (["--gpu-memory=80", "--gpus=0"], "--gpus=0: must be at least 1"),
        (
            ["--gpu-memory=80", "--gpus=3", "--config.mesh.fsdp=2", "--config.mesh.data=1"],
            "needs 2 devices, there are 3",
        ),
        (["--topology=v5e"], "--topology='v5e': NAME:SHAPE"),
    ],
)
def test_what_cannot_be_planned_is_one_line(options, line, capsys):
    assert main.main(["plan", *options]) == exits.USER_ERROR
    said = capsys.readouterr()
    assert line in said.err and said.err.count("\n") == 1 and said.out == ""


@pytest.mark.parametrize(
    "option", ["--start-timeout=0", "--start-timeout=nan", "--peer-timeout=-1", "--peer-timeout=inf"]
)
def test_a_time_to_wait_is_a_number_of_seconds(option, capsys):
    assert main.main(["train", option]) == exits.USER_ERROR
    assert "must be seconds, more than 0" in capsys.readouterr().err
