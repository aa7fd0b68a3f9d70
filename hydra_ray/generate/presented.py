# ruff: noqa: RUF001
"""Places in an answer to a closed task at which it says by itself what the answer is, whatever else it names."""

import re
from collections.abc import Iterator

_NAMES = (
    r"answer|tag|label|category|class|genre|topic|sentiment|rating|score|choice|option|verdict|prediction|antwort|"
    r"kategorie|bewertung|réponse|catégorie|respuesta|categoría|puntuación|risposta|resposta|categoria|antwoord|cevap|"
    r"kategori|ответ|категория|оценка|الإجابة|الفئة|उत्तर|श्रेणी|답변|정답|답|카테고리|평점|최종\s답변|答案|最终答案|回答|类别|類別|分类|分類|标签|標籤|"
    r"评分|評分|答え|カテゴリー?|評価|คำตอบ|หมวดหมู่"
)
_LEAD = r"(?:the\s+)?(?:final|correct|best|predicted)?\s?"
_NAMED = re.compile(
    rf"(?:^|(?<=[.!?。]\s))[ \t>#*_-]{{0,8}}{_LEAD}(?:{_NAMES})[*_]{{0,3}}\s{{0,2}}"
    r"(?:[:：=]|\bis\b:?)[ \t]{0,4}(?P<inside>[^\n]+)",
    flags=re.IGNORECASE | re.MULTILINE,
)
"""Name of the answer at the beginning of a line or a sentence, with what follows it on the line."""
_BOXED = re.compile(r"\\boxed\{(?:\\text\{)?(?P<inside>[^{}\n]+)\}")
_TAGGED = re.compile(
    r"<(?P<name>answer|label|tag|category|rating|score)>(?P<inside>[^<>]+)</(?P=name)>", flags=re.IGNORECASE
)
_EXPLANATION = re.compile(
    r"^[ \t>#*_-]{0,8}(?:explanation|reasoning|reasons?|rationale|justification|begründung|erklärung|explication|"
    r"explicación|razón|motivazione|spiegazione|explicação|объяснение|обоснование|الشرح|السبب|कारण|설명|이유|解释|解釋|理由|说明|說明|説明)"
    r"[*_]{0,3}\s?[:：]",
    flags=re.IGNORECASE | re.MULTILINE,
)


def presented_texts(text: str) -> Iterator[str]:
    """Yield what stands in LaTeX's box or in a tag, and behind a name of the answer or alone in a line where the text
    or its conclusion before an explanation ends; elsewhere a later line may take it back."""
    for pattern in (_BOXED, _TAGGED):
        for match in pattern.finditer(text):
            yield match["inside"].strip()
    explanation = _EXPLANATION.search(text)
    conclusion = text[: explanation.start()].strip() if explanation else ""
    if conclusion and "\n" not in conclusion:
        yield conclusion
    for part in (conclusion, text):
        if _NAMED.search(part.rstrip().rpartition("\n")[2]):
            # Those before it too: of two that differ none is the answer.
            for match in _NAMED.finditer(part):
                yield match["inside"].strip()
