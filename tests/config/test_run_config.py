from hydra_ray.config import load_config


def test_without_a_gate_any_prompts_may_be_drafts(path):
    config = load_config(path, ["drafts.prompts=[]", "answers.is_gated=false"])
    assert config.drafts.prompts == ()
