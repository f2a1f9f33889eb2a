"""Chat templates as text: which one is meant, and what a template with generation markers marks."""

import re
from pathlib import Path
from typing import Any

from tamis.errors import ChatError

Span = tuple[int, int]

PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}"
    "{% if tools %}{{ '<|tools|>\n' + (tools | tojson) + '\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|' + message.role + '|>\n' }}"
    "{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}"
    "{% for call in message.tool_calls or [] %}{{ '<|tool_call|>' + ((call.function or call) | tojson) }}{% endfor %}"
    "{{ eos_token }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message.content + '\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

# Noncharacters: Unicode keeps them out of text, so a template cannot write one by itself.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_GENERATION = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")
# Some templates write today's date; tokens must not depend on the day. The newline is eaten by trim_blocks.
_FIXED_DATE = (
    "{% macro strftime_now(format) %}{{ format | replace('%d', '26') | replace('%b', 'Jul') | replace('%B', 'July')"
    " | replace('%m', '07') | replace('%Y', '2024') | replace('%y', '24') | replace('%A', 'Friday')"
    " | replace('%a', 'Fri') | replace('%H', '12') | replace('%M', '00') | replace('%S', '00') }}{% endmacro %}\n"
)


def template_text(tokenizer: Any, template: str | None) -> str:
    """The Jinja text that `template` means."""
    if template is None:
        own = getattr(tokenizer, "chat_template", None)
        if isinstance(own, dict):
            if "default" not in own:
                raise ChatError(f"the tokenizer has the templates {', '.join(own)}, none named default: give one")
            own = own["default"]
        text = own or PLAIN_TEMPLATE
    elif template == "plain":
        text = PLAIN_TEMPLATE
    elif "{" in template:
        text = template
    else:
        try:
            text = Path(template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ChatError(
                f"--template {template}: expected plain, a Jinja template or a file that holds one; {error}"
            ) from error
    return _FIXED_DATE + text if "strftime_now" in text else str(text)


def with_sentinels(template: str) -> str | None:
    """The template with its generation markers writing sentinels, or None where it has none.

    `{% if true %}` stands where the marker stood, so that white space around it is trimmed as before.
    """

    def sentinel(marker: re.Match[str]) -> str:
        before, end, after = marker.groups()
        return f"{{%{before} if true %}}{{{{ '{_CLOSE if end else _OPEN}' }}}}{{% endif {after}%}}"

    marked, n_markers = _GENERATION.subn(sentinel, template)
    return marked if n_markers else None


def split_sentinels(marked: str) -> tuple[str, list[Span]]:
    """Text without sentinels, and the spans between them."""
    text, *parts = marked.split(_OPEN)
    spans = []
    for part in parts:
        inside, _, outside = part.partition(_CLOSE)
        spans.append((len(text), len(text) + len(inside)))
        text += inside + outside
    return text, spans
