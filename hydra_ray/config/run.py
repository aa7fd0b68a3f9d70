"""The configuration of a run as a whole: its name and its sections."""

from typing import Self

from pydantic import model_validator

from hydra_ray.config.drafts import AnswersConfig, DraftsConfig
from hydra_ray.config.engine_arguments import parallel_ranks
from hydra_ray.config.generator import GeneratorConfig
from hydra_ray.config.placement import BudgetConfig, PlacementConfig
from hydra_ray.config.refresh import RefreshConfig
from hydra_ray.config.report import ReportConfig
from hydra_ray.config.retrieve import ProbesConfig, RetrieveConfig
from hydra_ray.config.scorer import AdapterConfig, ScorerConfig
from hydra_ray.config.section import RunName, Section, is_plugin
from hydra_ray.config.storage import StorageConfig
from hydra_ray.config.task import Task
from hydra_ray.config.update import UpdateConfig
from hydra_ray.config.users import LampConfig, UsersConfig


class RunConfig(Section):
    """One run: the whole path for one task."""

    run: RunName
    """Name of the run: the folder of its report and answers below storage.root/runs."""
    taught_by: RunName | None = None
    """Name of the parent run: a finished run under the same root whose bases, shared heads, label model and gate are
    used as they are (of a cross-fitted run those of fold 0); all users are new then. Not this run's own name. Null
    learns them from this run's training users."""
    update: UpdateConfig | None = None
    """Updates before this one, where the run is an update of `taught_by`; null where it is a run of its own."""
    refresh: RefreshConfig | None = None
    """Finished run whose users and present histories this one learns from anew; null where they are read from
    `lamp`."""
    storage: StorageConfig
    """Storage root and its S3 store."""
    lamp: LampConfig
    """Task and source of the users."""
    users: UsersConfig = UsersConfig()
    """Division of users into buckets and folds."""
    retrieve: RetrieveConfig = RetrieveConfig()
    """Ranking of a user's records for a query."""
    generator: GeneratorConfig
    """Black-box LLM."""
    probes: ProbesConfig = ProbesConfig()
    """Probes of single records."""
    reranker: ScorerConfig
    """Scorer of records, which is not made without a generator."""
    drafts: DraftsConfig = DraftsConfig()
    """Proposed answers."""
    adapter: AdapterConfig
    """Scorer of drafts."""
    answers: AnswersConfig = AnswersConfig()
    """Choice of one answer."""
    report: ReportConfig = ReportConfig()
    """Confidence intervals of the report."""
    budget: BudgetConfig = BudgetConfig()
    """Limits of cost."""
    placement: PlacementConfig = PlacementConfig()
    """Resources on the cluster."""

    @property
    def num_buckets(self) -> int:
        """Number of buckets of users, of a configuration in which `users.num_buckets` is a number."""
        assert self.users.num_buckets != "auto"
        return self.users.num_buckets

    @property
    def named_models(self) -> list[str]:
        """Every model that the run names, each once."""
        named = [self.generator.model, self.retrieve.encoder, self.reranker.base.encoder, self.adapter.base.encoder]
        return list(dict.fromkeys(each for each in named if each))

    @property
    def has_generator(self) -> bool:
        """Whether a generator is asked; where not, answers come from records alone."""
        return self.generator.engine != "none"

    @property
    def has_scorers(self) -> bool:
        """Whether a generator answers, so that a reranker chooses records for prompts and an adapter chooses among
        drafts. For a preference it only drafts candidates, and what chooses among them asks nobody."""
        return self.has_generator and not self._is_preference

    @property
    def drafts_candidates(self) -> bool:
        """Whether a generator drafts the candidates of preference queries that bring none."""
        return self.has_generator and self._is_preference

    @property
    def _is_preference(self) -> bool:
        return isinstance(self.lamp.task, Task) and self.lamp.task.kind == "preference"

    @property
    def plugins(self) -> list[tuple[str, str]]:
        """Functions of other packages, each as the setting and its `module:name`."""
        task = self.lamp.task if isinstance(self.lamp.task, str) else ""
        named = [
            ("lamp.task", task),
            ("lamp.metric", self.lamp.metric or ""),
            ("retrieve.method", self.retrieve.method),
            ("generator.engine", self.generator.engine),
            ("generator.prompt_form", self.generator.prompt_form),
            *(("reranker.plain_features", each) for each in self.reranker.plain_features),
            *(("adapter.plain_features", each) for each in self.adapter.plain_features),
        ]
        return [(setting, name) for setting, name in named if is_plugin(name)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_runs_before()
        if self.drafts.num_records > self.probes.num_records:
            raise ValueError("drafts.num_records (k) must not exceed probes.num_records (N)")
        is_gated = self.answers.is_gated and not self.drafts_candidates  # no gate chooses among candidates
        if is_gated and not {"zero_shot", "rag_k"} <= set(self.drafts.prompts):
            raise ValueError(
                "answers.is_gated needs zero_shot and rag_k among drafts.prompts: the gate chooses among them"
            )
        if self.answers.is_gated and self.adapter.labels == "published":
            raise ValueError(
                "adapter.labels published needs answers.is_gated=false: the gate judges by pseudo-queries, among whose "
                "candidates the right answer stands"
            )
        if not self.has_scorers:
            self._check_without_scorers()
        if self.drafts.num_pseudo_queries > self.probes.num_pseudo_queries:
            raise ValueError("drafts.num_pseudo_queries must not exceed probes.num_pseudo_queries (M)")
        parallel_ranks(self.generator.engine_args, self.placement.generator_gpus)
        if self.placement.generator_gpus == 0:
            self._check_cpu_generator()
        return self

    def _check_without_scorers(self) -> None:
        if not (self.adapter.has_plain_features and self.adapter.has_own_labels):
            raise ValueError(
                "generator.engine none, and every task of the kind preference, answers by the label model, which "
                "adapter.has_plain_features and has_own_labels must leave on"
            )
        if self.reranker.plain_features or self.adapter.plain_features:
            raise ValueError(
                "plain_features are of the reranker and of the adapter's drafts: generator.engine none has neither, "
                "nor has a task of the kind preference"
            )
        if self.drafts_candidates and "reranked" in {*self.drafts.prompts, *self.drafts.sampled_prompts}:
            raise ValueError(
                "drafts.prompts and drafts.sampled_prompts must not have reranked in a task of the kind preference, "
                "which has no reranker: write drafts.prompts: [zero_shot, rag_1, rag_2, rag_k]"
            )

    def _check_runs_before(self) -> None:
        if self.taught_by is not None and (self.taught_by == self.run or self.users.num_folds > 1):
            raise ValueError("taught_by names another run, and its users are new: users.num_folds must be 1")
        if self.update is not None and self.taught_by is None:
            raise ValueError("update needs taught_by, the finished run that is updated: see `hydra-ray update`")
        if self.refresh is not None and (self.taught_by is not None or self.refresh.of == self.run):
            raise ValueError("refresh is of another run, and learns anew what users share: taught_by must be null")

    def _check_cpu_generator(self) -> None:
        if self.generator.is_batch_invariant:
            raise ValueError(
                "generator.is_batch_invariant needs placement.generator_gpus: vLLM has it on GPUs alone. On CPU one "
                "part is answered at a time, and comes out the same again"
            )
        if self.generator.engine_args.get("enable_chunked_prefill"):
            raise ValueError(
                "generator.engine_args must not have enable_chunked_prefill where placement.generator_gpus is 0: vLLM "
                "cannot go on with a seed there"
            )
