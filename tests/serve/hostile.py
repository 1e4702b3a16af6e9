"""What hostile requests are made of: names, values, and good bodies to damage."""

from typing import Any

NAMES = (
    "../../etc/passwd", "..\\..\\x", "/etc/passwd", "a/../../b", "%2e%2e%2f", "\0", "a\0b", "a" *
    5000, "", " ",
    "~", "~root", "CON", "store:", "store:../x", "store:x/../../y@HEAD", "store:x@--upload-pack=id",
    "store:x@-n", "store:x@HEAD:../secret", "gen:", "gen: ", "gen:" + "x " * 2000, "gen:$(id)",
    "blend:",
    "blend:1e999*a", "blend:nan*sort", "blend:" + "+".join(["1*sort"] * 200), "blend:1*../x",
    "route:", "route:../x",
    "tree:/etc", "shift:..", "base:base", "zen:a", "sort\r\nX-Evil: 1", "\ud800", "сорт", "a" * 101,
    "sort@HEAD",
    "weft/letters", "weft/../letters", "file:///etc/passwd", "http://127.0.0.1/", "-rf", "--help",
    "[]", "{}",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 2**64, -(2**70), 0.5, -0.0, 1e308, 1e-320, "", "a", "\0",
    "é" * 100, [], {},
    [[]], [None], [-1], [2**40], ["a", 1], [[1, 2], [3]], {"a": {"b": {}}}, "x" * 50_000, [1] *
    5000,
)  # fmt: skip
BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {
        "model": "sort", "prompt": "cab", "max_tokens": 3, "temperature": 0.0, "top_p": 1.0, "n": 1,
        "stop": ["x"],
        "seed": 1, "logprobs": 1, "echo": False, "logit_bias": {"5": 1.0}, "stream": False,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.1, "repetition_penalty": 1.1, "min_p": 0.1, "top_k": 3, "trace":
        True, "weft": True,
    },
    "/v1/chat/completions": {
        "model": "sort", "messages": [{"role": "user", "content": "cab"}], "max_tokens": 3,
        "logprobs": True,
        "top_logprobs": 2, "stream": True, "stream_options": {"include_usage": True}, "tools": [],
        "n": 1,
    },
    "/v1/embeddings": {"model": "minilm", "input": ["a"], "encoding_format": "base64"},
    "/v1/adapters": {"name": "made", "description": "sort the letters"},
    "/v1/load_lora_adapter": {"lora_name": "loaded", "lora_path": "inside"},
    "/v1/unload_lora_adapter": {"lora_name": "loaded"},
    "/tokenize": {"prompt": "cab", "add_special_tokens": True},
    "/detokenize": {"tokens": [3, 4]},
}  # fmt: skip
