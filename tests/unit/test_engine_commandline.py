"""Commands are filled in as written, and secrets stay out of what is stored."""

import pytest

from harness.engines.commandline import SET, fill, process_environment, redacted, redacted_words, with_search_path
from harness.errors import BadInput

VALUES = {"python": "/p/python", "model": "/m", "workdir": "/w", "port": "8000", "gpus": "2,3"}
ARGUMENTS = ["--port", "8000", "--dtype", "float16"]


def test_arguments_take_the_place_of_their_word() -> None:
    words = fill(("srun", "vllm", "serve", "{model}", "{arguments}", "--last"), VALUES, ARGUMENTS)
    assert words == ["srun", "vllm", "serve", "/m", *ARGUMENTS, "--last"]


def test_arguments_are_appended_where_no_word_says_where() -> None:
    assert fill(("vllm", "serve", "{model}"), VALUES, ARGUMENTS) == ["vllm", "serve", "/m", *ARGUMENTS]


def test_placeholders_are_filled_within_words_and_nothing_is_split_or_expanded() -> None:
    words = fill(("--gpus", '"device={gpus}"', "-v", "{workdir}:{workdir}", "a b $HOME", "{port}{port}"), VALUES, [])
    assert words == ["--gpus", '"device=2,3"', "-v", "/w:/w", "a b $HOME", "80008000"]


@pytest.mark.parametrize("word", ["{modle}", "--x={arguments}", "{}"])
def test_an_unknown_placeholder_is_bad_input_that_names_the_known_ones(word: str) -> None:
    with pytest.raises(BadInput, match=r"command: .*\{model\}"):
        fill(("vllm", word), VALUES, [])


def test_an_engine_gets_little_of_our_environment_its_gpus_and_what_is_added() -> None:
    own = {"PATH": "/bin", "HF_TOKEN": "hf_x", "SLURM_JOB_ID": "7", "LD_AUDIT": "no", "CUDA_VISIBLE_DEVICES": "0,1"}
    environment = process_environment(own, {"VLLM_X": "1", "PATH": "/opt"}, [2, 3])
    assert environment == {
        "PATH": "/opt",
        "HF_TOKEN": "hf_x",
        "SLURM_JOB_ID": "7",
        "VLLM_X": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "2,3",
    }


def test_without_gpus_none_is_visible() -> None:
    assert process_environment({}, {}, [])["CUDA_VISIBLE_DEVICES"] == ""


def test_our_folder_comes_first_on_the_search_path() -> None:
    assert with_search_path({}, "/w/inside")["PYTHONPATH"] == "/w/inside"
    assert with_search_path({"PYTHONPATH": "/a:/b"}, "/w/inside")["PYTHONPATH"] == "/w/inside:/a:/b"


def test_secrets_are_not_stored() -> None:
    shown = redacted({"HF_TOKEN": "hf_x", "AWS_SECRET": "s", "api_key": "k", "PATH": "/bin", "MAX_TOKENS": "4"})
    assert shown == {"AWS_SECRET": SET, "HF_TOKEN": SET, "MAX_TOKENS": "4", "PATH": "/bin", "api_key": SET}


def test_secrets_among_the_words_are_not_stored_and_nothing_else_is_hidden() -> None:
    words = ["docker", "-e", "HF_TOKEN=hf_x", "--api-key", "k", "--hf-token=t", "--max-num-batched-tokens", "512"]
    words += ["--skip-tokenizer-init", "--dtype", "float16"]
    assert redacted_words(words) == [
        *("docker", "-e", f"HF_TOKEN={SET}", "--api-key", SET, f"--hf-token={SET}", "--max-num-batched-tokens", "512"),
        *("--skip-tokenizer-init", "--dtype", "float16"),
    ]
