"""The mutation tester: which mutants it makes, and that the table of the equivalent ones is no older than the code."""

from tests.mutation.mutants import mutants
from tests.mutation.run import all_mutants, covers, equivalent, suite_of

SOURCE = '''
def f(n: int = 1) -> int | None:
    """Text 1."""
    if ready and n >= 2:
        raise UserError(f"{n + 1} is no number")
    torch.cuda.synchronize()
    self.n = not n
    return n
'''
CHANGES = {
    "1  ->  2",
    "1  ->  0",
    "ready and n >= 2  ->  ready or n >= 2",
    "ready and n >= 2  ->  ready and n < 2",
    "ready and n >= 2  ->  ready and n > 2",
    "ready and n >= 2  ->  ready and n >= 3",
    "ready and n >= 2  ->  ready and n >= 1",
    "raise UserError(f'{n + 1} is no number')  ->  pass",
    "self.n = not n  ->  pass",
    "self.n = not n  ->  self.n = n",
    "return n  ->  return None",
}


def test_a_mutant_is_one_change_of_the_behaviour(tmp_path):
    (tmp_path / "f.py").write_text(SOURCE)
    found = mutants(tmp_path / "f.py", "f.py")
    assert {mutant.change for mutant in found} == CHANGES
    assert len({mutant.source() for mutant in found}) == len(CHANGES)
    assert all(compile(mutant.source(), "f.py", "exec") for mutant in found)


def test_each_equivalent_mutant_is_one_and_has_tests():
    found = all_mutants()
    unknown = [line for lines in equivalent().values() for line in lines if not any(covers(line, m) for m in found)]
    assert unknown == [], "no such mutants any more"
    assert all(suite_of(mutant) for mutant in found)
