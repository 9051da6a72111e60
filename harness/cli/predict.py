"""`harness predict`: what a batch would take, from a trained predictor."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from harness.cli.folders import RESULTS
from harness.cli.report import write_whole
from harness.deployment.catalog import model_shape
from harness.errors import BadInput
from harness.predictorfiles import only_predictor, trained_predictor
from harness.questions import MOST_TOKENS, answered, read_questions
from harness.texts import printable
from harness.trainer import Answer, Provenance, Question, find_trainer

_COUNT = click.IntRange(1, MOST_TOKENS)
_ONE_BATCH = ("--gpu", "--model", "--batch", "--prompt", "--generate")


@click.command(short_help="energy of a batch that nobody measured")
@click.option("--gpu", help="kind of GPU: a100, a100-40gb, h100, h200, ...")
@click.option("--model", help="a bundled model's name, or the path of a config.json")
@click.option("--batch", type=_COUNT, help="requests of the batch")
@click.option("--prompt", type=_COUNT, help="prompt tokens of each")
@click.option("--generate", type=_COUNT, help="generated tokens of each")
@click.option("--tp", type=click.IntRange(1, 1024), default=1, show_default=True, help="tensor parallel size")
@click.option("--pp", type=click.IntRange(1, 1024), default=1, show_default=True, help="pipeline parallel size")
@click.option("--bits", type=click.IntRange(2, 32), default=16, show_default=True, help="of a weight")
@click.option("--engine", help="serving engine [the commonest of training]")
@click.option("--token-budget", type=_COUNT, help="tokens of a step of the engine [the commonest of training]")
@click.option("--in", "questions", type=click.Path(path_type=Path), help="CSV of batches instead of one")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="CSV of the answers to --in")
@click.option("--predictor", type=click.Path(path_type=Path), help="trained predictor, or its folder [the only one]")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def predict(
    gpu: str | None,
    model: str | None,
    batch: int | None,
    prompt: int | None,
    generate: int | None,
    tp: int,
    pp: int,
    bits: int,
    engine: str | None,
    token_budget: int | None,
    questions: Path | None,
    out: Path | None,
    predictor: Path | None,
    as_json: bool,
) -> None:
    """Predict the energy of a batch on all its GPUs, with a 90% interval.

    It says when the predictor has learnt from simulated runs, when the batch is unlike all that it has learnt from,
    and when it cannot run at all.

    \b
    Examples:
        harness predict --gpu a100 --model llama-2-7b --tp 1 --batch 8 --prompt 1024 --generate 128
        harness predict --in batches.csv --out energies.csv
    """
    if (questions is None) != (out is None):
        raise BadInput("--in and --out", str(questions or out), "both of them, or none")
    if questions is not None and out is not None:
        _predict_file(questions, out, predictor, as_json)
        return
    if gpu is None or model is None or batch is None or prompt is None or generate is None:
        given = (gpu, model, batch, prompt, generate)
        missing = [name for name, value in zip(_ONE_BATCH, given, strict=True) if value is None]
        raise BadInput(missing[0], "(not given)", f"a value for each of {', '.join(_ONE_BATCH)}; or --in and --out")
    question = Question(gpu, model_shape(model, "--model"), batch, prompt, generate, tp, pp, bits, engine, token_budget)
    found = find_trainer().predict(_trained(predictor), (question,))
    (answer,) = found.answers
    if as_json:
        click.echo(json.dumps({**asdict(answer), **_provenance_json(found.provenance)}, allow_nan=False))
    else:
        _print(question, answer, found.provenance)


def _trained(predictor: Path | None) -> Path:
    return only_predictor(RESULTS) if predictor is None else trained_predictor(predictor)


def _predict_file(questions: Path, out: Path, predictor: Path | None, as_json: bool) -> None:
    rows, asked = read_questions(questions)
    found = find_trainer().predict(_trained(predictor), asked)
    write_whole(out, answered(rows, found.answers).to_csv(index=False))
    counts = {
        "questions": len(asked),
        "outside": sum(bool(answer.outside) for answer in found.answers),
        "infeasible": sum(bool(answer.infeasible) for answer in found.answers),
    }
    if as_json:
        click.echo(json.dumps({"out": str(out), **counts, **_provenance_json(found.provenance)}))
        return
    click.echo(
        f"{printable(str(out))}: {counts['questions']} answers, {counts['infeasible']} that cannot run,"
        f" {counts['outside']} outside the training range"
    )
    click.echo(printable(found.provenance.line))


def _provenance_json(provenance: Provenance) -> dict[str, object]:
    return {"trained_on": asdict(provenance), "note": provenance.line}


def _print(question: Question, answer: Answer, provenance: Provenance) -> None:
    served = f"{answer.engine}@{answer.token_budget}"
    asked = (
        f"{question.model.name} in {question.bits} bits on {question.gpu}, tp {question.tp} x pp {question.pp},"
        f" {served}: batch {question.batch_size}, {question.prompt_tokens} prompt and"
        f" {question.generated_tokens} generated tokens"
    )
    click.echo(printable(asked))
    if answer.infeasible:
        click.echo(printable(f"cannot run: {answer.infeasible}"))
    else:
        interval = f"90% interval {_joules(answer.low_j)} to {_joules(answer.high_j)} J"
        click.echo(f"  whole batch          {_joules(answer.total_j)} J   {interval}")
        click.echo(f"  its prefill          {_joules(answer.prefill_j)} J")
        click.echo(f"  per generated token  {_joules(answer.token_j)} J")
    for line in answer.outside:
        click.echo(printable(f"outside the training range: {line}"))
    click.echo(printable(provenance.line))


def _joules(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
