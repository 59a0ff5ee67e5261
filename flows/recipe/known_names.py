"""Names that people know from other programs, and the keys of a recipe that say the same.

They come from TRL, transformers, peft, axolotl, LLaMA-Factory and lm-eval. An error for an unknown key says what to set in its place. The
library has a table of its own for the keys of `train` (`bnf.training.values`): it refuses them where no recipe is. A recipe's own keys are
here too where people write them in another section.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """What stands for a name here: the recipe's keys, all by their whole names, and a remark where the keys don't say enough.

    Without a key the name is left out, and the remark says why.
    """

    keys: tuple[str, ...]
    remark: str = ""

    @property
    def remedy(self) -> str:
        """What to set, as the end of an error."""
        if not self.keys:
            return f"leave it out: {self.remark}"
        keys = " and ".join(self.keys) if len(self.keys) < 3 else f"{', '.join(self.keys[:-1])} and {self.keys[-1]}"
        return f"set {keys}" + (f" ({self.remark})" if self.remark else "")


def _named(names: str, *keys: str, remark: str = "") -> dict[str, Known]:
    return dict.fromkeys(names.split(), Known(keys, remark))


_LENGTH = "prompt and completion, in tokens"
_BATCHES = "the prompt groups in a step, and the memory: devices and accumulation follow"
_OPTIONS = "train.objective_options"

KNOWN_NAMES: dict[str, Known] = {
    # the run
    **_named("run_name output_dir experiment_name project_name", "name", remark="runs are called after it, in BNF_HOME"),
    **_named("random_seed data_seed", "seed"),
    # the model
    **_named("model model_name model_id model_path base_model base_model_name pretrained policy", "model_name_or_path"),
    **_named(
        "ref_model ref_model_name ref_model_name_or_path reference_model",
        "reference.model_name_or_path",
        remark="left out, it is the model that training starts from",
    ),
    **_named(
        "sft_model", "model_name_or_path", remark="the policy begins as this model, and left out elsewhere it is the reference"
    ),
    **_named("model_revision", "revision"),
    **_named("system system_message default_system system_text", "system_prompt"),
    # data
    **_named(
        "dataset datasets dataset_name dataset_path dataset_id data_path data_file data_files", "data.source", "data.path"
    ),
    **_named("train_file train_files train_data train_dataset preference_data", "data.source", "data.path"),
    **_named("dataset_format data_format format", "data.source"),
    **_named("dataset_config dataset_config_name subset", "data.config"),
    **_named("dataset_split dataset_train_split train_split", "data.split"),
    **_named("dataset_revision", "data.revision"),
    **_named("dataset_streaming", "data.streaming"),
    **_named("column_mapping columns field_mapping", "data.columns"),
    **_named("max_samples max_train_samples train_size", "data.limit", remark="the first so many prompts"),
    **_named(
        "limit", "data.limit", "evaluation.benchmarks", remark="of data its prompts; of a benchmark {gsm8k: {limit: 100}}"
    ),
    **_named("val_size val_set_size test_size validation_split eval_dataset eval_file", "prepare.dev_fraction"),
    **_named("preprocessing_num_workers dataset_num_proc dataset_processes num_workers", "prepare.num_proc"),
    **_named("max_seq_length max_seq_len max_sequence_length seq_length", "prepare.max_length", remark=_LENGTH),
    **_named("max_length sequence_len cutoff_len model_max_length block_size", "prepare.max_length", remark=_LENGTH),
    **_named("max_completion_length max_target_length max_response_length", "prepare.max_length", remark=_LENGTH),
    **_named("max_prompt_length max_prompt_len", "prepare.max_prompt_length"),
    **_named("truncation_mode truncation_side", "prepare.truncation"),
    **_named("completion_only_loss assistant_only_loss train_on_inputs", remark="completions alone are trained on"),
    # the objective
    **_named("loss loss_type pref_loss rl stage trainer algorithm method", "train.objective"),
    **_named("beta pref_beta dpo_beta simpo_beta rl_beta", f"{_OPTIONS}.beta", remark="of grpo kl_coef"),
    **_named("kl_coef kl_coeff kl_loss_coef kl_beta init_kl_coef", f"{_OPTIONS}.kl_coef"),
    **_named("kl_estimator kl_loss_type", f"{_OPTIONS}.kl_estimator", remark="k1, k2 or k3"),
    **_named("epsilon cliprange clip_range clip_ratio epsilon_low clip_ratio_low eps_clip", f"{_OPTIONS}.epsilon"),
    **_named("epsilon_high clip_ratio_high clip_higher eps_clip_high", f"{_OPTIONS}.epsilon_high"),
    **_named("scale_rewards norm_adv_by_std_in_grpo", f"{_OPTIONS}.scale_rewards", remark="group or none"),
    **_named("loss_aggregation loss_agg_mode", f"{_OPTIONS}.loss_aggregation"),
    **_named("importance_sampling_level", "train.objective", remark="token is grpo, sequence is gspo"),
    **_named("normalize_advantages whiten_advantages whiten_rewards", f"{_OPTIONS}.whiten"),
    **_named("adv_estimator", "train.objective", f"{_OPTIONS}.baseline", remark="rloo is reinforce with leave_one_out"),
    **_named("num_iterations num_ppo_epochs ppo_epochs", "sample.epochs_per_round", remark="times that samples are used"),
    **_named("gamma simpo_gamma", f"{_OPTIONS}.gamma"),
    **_named("gamma_beta_ratio", f"{_OPTIONS}.gamma_beta_ratio"),
    **_named("label_smoothing dpo_label_smoothing", "train.objective", f"{_OPTIONS}.label_smoothing", remark="objective cdpo"),
    **_named("tau", f"{_OPTIONS}.tau"),
    **_named("reference_free", "train.objective", remark="simpo, cpo and orpo take no reference"),
    **_named(
        "precompute_ref_log_probs precompute_ref_batch_size",
        remark="the reference's log-probabilities are always computed before the training, and cached",
    ),
    **_named("cpo_alpha rpo_alpha pref_ftx sft_weight", f"{_OPTIONS}.nll_weight", remark="objectives cpo and dpo_nll"),
    **_named("desirable_weight kto_chosen_weight kto_desirable_weight", f"{_OPTIONS}.desirable_weight"),
    **_named("undesirable_weight kto_rejected_weight kto_undesirable_weight", f"{_OPTIONS}.undesirable_weight"),
    # the training
    **_named("epochs num_epochs n_epochs max_epochs train_epochs", "train.num_train_epochs"),
    **_named("lr peak_lr max_lr", "train.learning_rate"),
    **_named("lr_scheduler scheduler lr_scheduler_kwargs", "train.lr_scheduler_type"),
    **_named("warmup_steps num_warmup_steps", "train.warmup_ratio", remark="a share of all steps"),
    **_named("optimizer optimizer_type", "train.optim"),
    **_named(
        "batch_size train_batch_size micro_batch_size", "train.global_batch_size", "train.max_tokens_per_row", remark=_BATCHES
    ),
    **_named(
        "gradient_accumulation_steps per_device_train_batch_size per_device_eval_batch_size per_gpu_train_batch_size",
        "train.global_batch_size",
        "train.max_tokens_per_row",
        remark=_BATCHES,
    ),
    **_named("packing sample_packing padding_free", "train.max_tokens_per_row", remark="rows are always packed, up to it"),
    **_named("grad_clip gradient_clipping clip_grad_norm", "train.max_grad_norm"),
    **_named("fp16 tf32 mixed_precision bfloat16 half", "train.bf16"),
    **_named(
        "dtype torch_dtype model_dtype precision", "train.weights", "train.bf16", remark="how weights are held, and computed"
    ),
    **_named("attn_implementation flash_attention flash_attn use_flash_attention_2 xformers_attention", "train.attention"),
    **_named(
        "use_peft peft peft_config adapter finetuning_type use_lora", "train.lora_r", remark="16 is usual, 0 trains all weights"
    ),
    **_named("lora_rank lora_dim rank", "train.lora_r"),
    **_named("lora_target target_modules lora_target_linear", "train.lora_target_modules"),
    **_named("load_in_8bit quantization_bit quantization qlora bnb_4bit_quant_type", "train.load_in_4bit"),
    **_named("fsdp fsdp_config deepspeed deepspeed_config zero_stage", "train.sharding", "train.cpu_offload"),
    **_named("num_processes num_gpus n_gpus gpus world_size nproc", "train.nproc_per_node", "train.num_nodes"),
    **_named("eval_strategy evaluation_strategy do_eval evals_per_epoch", "prepare.dev_fraction", "train.eval_steps"),
    **_named("save_strategy save_total_limit saves_per_epoch", "train.save_steps"),
    **_named("load_best_model_at_end metric_for_best_model greater_is_better", "train.keep_best"),
    **_named("resume_from_checkpoint overwrite_output_dir", remark="the same command goes on from where a run was"),
    **_named("push_to_hub hub_model_id", remark="bnf export RUN --push-to-hub ID pushes the policy"),
    **_named("use_wandb wandb_project wandb tensorboard logger trackio_space_id", "train.report_to"),
    # samples, evaluation and judges
    **_named(
        "num_samples n_samples num_repeats n_repeats",
        "evaluation.num_samples",
        "data.limit",
        remark="completions of each item of the benchmarks; of data the first so many prompts",
    ),
    **_named(
        "temperature", "sample.temperature", "evaluation.temperature", remark="left out, benchmarks are answered greedily"
    ),
    **_named("top_p", "sample.top_p", "evaluation.top_p"),
    **_named("num_generations num_return_sequences n_samples_per_prompt rollout_n", "sample.samples_per_prompt"),
    **_named("max_new_tokens max_gen_toks max_tokens", "evaluation.max_new_tokens", "sample.max_new_tokens"),
    **_named(
        "thinking_token_budget thinking_budget max_think_tokens max_thinking_tokens",
        "evaluation.max_thinking_tokens",
        remark="of all models' answers",
    ),
    **_named(
        "top_k min_p typical_p", remark="samples are drawn by temperature and top_p alone, so that all engines draw alike"
    ),
    **_named(
        "repetition_penalty presence_penalty frequency_penalty", remark="completions are the model's own, without penalties"
    ),
    **_named("do_sample", "evaluation.temperature", "sample.temperature", remark="0 is greedy"),
    **_named("enable_thinking", "chat_template_kwargs", remark="chat_template_kwargs={enable_thinking: false}"),
    **_named("prompts prompt_file prompt_dataset", "sample.source", "sample.path"),
    **_named("use_vllm engine backend vllm_mode", "evaluation.engine", "sample.engine"),
    **_named(
        "vllm_gpu_memory_utilization gpu_memory_utilization",
        "evaluation.gpu_memory_utilization",
        "sample.gpu_memory_utilization",
    ),
    **_named(
        "vllm_tensor_parallel_size tensor_parallel_size tp_size",
        "evaluation.tensor_parallel_size",
        "sample.tensor_parallel_size",
    ),
    **_named("benchmarks benchmark eval_benchmarks", "evaluation.benchmarks"),
    **_named("tasks eval_tasks lm_eval", "evaluation.lm_eval"),
    **_named("judge_model", "judge.model_name_or_path"),
    **_named("reward_model reward_model_path reward_model_name", "label.labeler", "label.judge.model_name_or_path"),
}


# Keys of a recipe in a section that doesn't have them, where their name alone says too little: by the section's and the key's name.
_GREEDY_ONCE = "judges decide greedily, and the answers that they judge are greedy and given once"
MISPLACED: dict[str, Known] = {
    **_named("judge.temperature judge.top_p judge.seed judge.do_sample judge.num_samples", remark=_GREEDY_ONCE),
    **_named(
        "judge.max_thinking_tokens",
        "evaluation.max_thinking_tokens",
        remark="of the answers that are judged; a judge's own thought is limited by max_judgment_tokens alone",
    ),
    **_named(
        "sample.max_thinking_tokens train.max_thinking_tokens",
        remark="what a model is trained on must be its own, so no thought is ended in samples; sample.max_new_tokens limits the whole",
    ),
    **_named("sample.num_samples sample.n sample.k", "sample.samples_per_prompt", remark="completions of each prompt"),
    **_named(
        "label.temperature label.top_p label.seed label.num_samples label.max_thinking_tokens",
        remark="what labels is a rule or a judge, which decides greedily; how completions are drawn stands in sample",
    ),
    **_named("data.num_samples", "data.limit", remark="the first so many prompts"),
    **_named("evaluation.seed", remark="each sample has a seed of its own, made of its item's id and its number"),
}


def remedy_for(name: str) -> str | None:
    """What to set in the place of a key that another program has; None for a name that no other program is known to have."""
    known = KNOWN_NAMES.get(_as_listed(name))
    return known.remedy if known else None


def remedy_of_misplaced(section: str, name: str, top: Collection[str]) -> str | None:
    """What to set where one of a recipe's own keys stands in a section that doesn't have it, or what no section has; None for others.

    Args:
        section: The section's name; of a judge, whichever it is, `judge`.
        top: The keys at the top of a recipe.
    """
    listed = _as_listed(name)
    if (misplaced := MISPLACED.get(f"{section}.{listed}")) is not None:
        return misplaced.remedy
    # Others call a set's config its name.
    if listed in top and listed != "name":
        return f"write {listed} at the top of the recipe, outside of {section}"
    known = KNOWN_NAMES.get(listed)
    own = known is not None and (not known.keys or any(key.rpartition(".")[2] == listed for key in known.keys))
    return known.remedy if known is not None and own else None


def _as_listed(name: str) -> str:
    return name.lower().replace("-", "_")
