"""Programs as their text has them: loops, branches, and what runs beside others."""

import pytest

from resnet.planning.figures import costs
from resnet.planning.program import read_program

LOOP = """HloModule loops

%body (b: (s32[], f32[4])) -> (s32[], f32[4]) {
  %b = (s32[], f32[4]{0}) parameter(0)
  ROOT %copy.9 = (s32[], f32[4]{0}) copy(%b), backend_config={"estimated_cycles":"10"}
}

%condition (c: (s32[], f32[4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(128)
  %c = (s32[], f32[4]{0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %compare.1 = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (a: (s32[], f32[4])) -> (s32[], f32[4]) {
  %a = (s32[], f32[4]{0}) parameter(0)
  ROOT %while.1 = (s32[], f32[4]{0}) while(%a), condition=%condition, body=%body
}
"""


@pytest.mark.parametrize(
    "text, turns",
    (
        (LOOP, 128),
        (LOOP.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"3"}}'), 3),
        (LOOP.replace("direction=LT", "direction=NE"), 1),
        (LOOP.replace("constant(128)", "copy(%i)"), 1),
    ),
)
def test_a_loop_counts_as_often_as_it_runs(text, turns):
    found = {each.name: times for each, _, times in read_program(text).scheduled()}
    assert found["copy.9"] == turns


@pytest.mark.parametrize(
    "branches",
    ("branch_computations={%body, %condition}", "true_computation=%body, false_computation=%condition"),
)
def test_all_branches_are_gone_into(branches):
    text = LOOP.replace("while(%a), condition=%condition, body=%body", f"conditional(%p, %a, %a), {branches}")
    assert {"copy.9", "compare.1"} <= {each.name for each, *_ in read_program(text).scheduled()}


@pytest.mark.parametrize(
    "made, operation, moved",
    (
        ("(f32[64]{0:S(1)}, f32[64]{0}, u32[]{:S(2)})", "copy-start(%x)", 256),
        ("(f32[64]{0}, f32[64]{0:S(1)}, u32[]{:S(2)})", "copy-start(%near)", 256),
        ("((f32[64]{0}), f32[16]{0:S(1)}, s32[]{:S(2)})", "slice-start(%x), slice={[16:32]}", 64),
        ("((f32[64]{0:S(1)}), f32[16]{0}, s32[]{:S(2)})", "slice-start(%near), slice={[16:32]}", 64),
        ("f32[16]{0:S(1)}", "slice-done(%x)", 0),
        ("((f32[64]{0}), f32[8]{0}, u32[]{:S(2)})", "async-start(%x), calls=%other", 288),
        ("(f32[64]{0}, f32[256]{0})", "all-gather-start(%x), dimensions={0}", 1280),
        ("f32[64]{0}", "all-reduce-start(%x), to_apply=%sum", 512),
        ("f32[64]{0}", "reduce-scatter-done(%x)", 0),
    ),
)
def test_what_runs_beside_others_counts_where_it_begins_and_once(made, operation, moved):
    """Arrays marked S(1) lie on the chip. A start instruction repeats its operands among its results."""
    text = f"""HloModule jit_step

ENTRY %main (x: f32[64], near: f32[64]) -> f32[64] {{
  %x = f32[64]{{0}} parameter(0)
  %near = f32[64]{{0:S(1)}} parameter(1)
  %moved = {made} {operation}
  ROOT %end = f32[64]{{0}} bitcast(%x)
}}
"""
    assert sum(cost.bytes for cost in costs(read_program(text))) == moved
