"""Hugging Face classifiers: ``.logits`` of the output; of a pipeline its raw scores, for texts, images or audio."""

from lastlayer.train._logits_reading import Reading, unusable
from lastlayer.train._logits_torch import BATCH, called, evaluating

_TASKS = ("text-classification", "image-classification", "audio-classification")


def reading(model, asked):
    above = {one.__name__ for one in type(model).__mro__}
    if "Pipeline" in above:
        return _pipeline(model, asked)
    if "PreTrainedModel" not in above:
        raise unusable(model, "is no model", "give the model (trainer.model), or a pipeline")
    kind, task, names = _meaning(model, asked)
    return Reading(
        lambda X: called(model, X)["logits"],
        f"{type(model).__name__}.logits",
        kind,
        task,
        names=names,
        batch=BATCH // 8,
        during=lambda: evaluating(model, asked.device),
    )


def _meaning(model, asked):
    """Kind, task and names, as ``config`` says them: one label without a problem type is a regression there."""
    config = model.config
    problem = config.problem_type or ("regression" if config.num_labels == 1 else None)
    if problem == "regression":
        if asked.kind is None:
            raise unusable(
                model,
                f"is a regression: problem_type={config.problem_type!r}, num_labels={config.num_labels}",
                "say kind='logits' if its one output is the logit of a class",
            )
        return None, "binary", None
    names = tuple(config.id2label[i] for i in range(config.num_labels))
    return "logits", "multilabel" if problem == "multi_label_classification" else "multiclass", names


def _pipeline(pipeline, asked):
    """Its raw scores, by ``function_to_apply="none"``, put in the order of the model's labels."""
    if pipeline.task not in _TASKS:
        raise unusable(pipeline, f"is for {pipeline.task}", f"give one for {', '.join(_TASKS)}")
    if asked.device is not None:
        raise ValueError("logits_of: a pipeline is made with a device: pipeline(..., device=...). Leave device= out.")
    kind, task, names = _meaning(pipeline.model, asked)
    order = names or tuple(pipeline.model.config.id2label.values())

    def scores(X):
        rows = pipeline(list(X), top_k=None, function_to_apply="none", batch_size=len(X))
        found = [{each["label"]: each["score"] for each in row} for row in rows]
        return [[row[name] for name in order] for row in found]

    source = f"{type(pipeline).__name__} > {type(pipeline.model).__name__}.logits"
    # A pipeline leaves its model as it was given: in training mode, where somebody trains it.
    return Reading(
        scores, source, kind, task, names=names, batch=BATCH // 8, during=lambda: evaluating(pipeline.model, None)
    )
