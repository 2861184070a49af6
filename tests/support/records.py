"""One conversation as a record of every shape, and its messages."""

from chatml import Message, read_conversation

USER, ANSWER = Message("user", "Hi"), Message("assistant", "Hello")
SYSTEM = Message("system", "Be kind.")


def messages(record, fields=None):
    return read_conversation(record, fields).messages


TALKS = {
    "messages": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
    "messages with parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
            {"role": "assistant", "content": "Hello", "tool_calls": None, "train": None},
        ]
    },
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    "sharegpt in roles": {"conversations": [{"role": "user", "content": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    "prompt and response": {"prompt": "Hi", "response": "Hello"},
    "prompt as messages": {"prompt": [{"role": "user", "content": "Hi"}], "response": "Hello"},
    "response as message": {"prompt": "Hi", "response": {"role": "assistant", "content": "Hello"}},
    "prompt and completion": {"prompt": "Hi", "completion": "Hello", "id": 3},
    "prompt and completion as messages": {
        "prompt": [{"role": "user", "content": "Hi"}],
        "completion": [{"role": "assistant", "content": "Hello"}],
    },
    "query and response": {"query": "Hi", "response": "Hello"},
    "question and answer": {"question": "Hi", "answer": "Hello"},
    "alpaca": {"instruction": "Hi", "input": "", "output": "Hello"},
    "alpaca, input as instruction": {"instruction": "", "input": "Hi", "output": "Hello", "history": None},
    "transcript": {"text": "\n\nHuman: Hi\n\nAssistant: Hello"},
    "comparison": {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"},
}
