"""The options of an analysis: one for every field of StartFindRequest that this release honours.

Unset options leave the field unset, so that the service's documented default holds.
"""

from __future__ import annotations

from typing import Annotated

import typer

from mistudio_cli.train_options import option

TrainingJob = Annotated[
    str | None, typer.Argument(help="The training job to analyse; none with --sae-uri.", show_default=False)
]
SaeUri = Annotated[
    str | None,
    option(
        "--sae-uri",
        "An SAE of another origin instead: a folder under the model root, the name of an imported one, "
        "hf:<owner>/<name>[@revision][/folder], or the URI of an sae artifact.",
    ),
]
Model = Annotated[str | None, option("--model", "The model that --sae-uri reads.")]
Corpus = Annotated[str | None, option("--corpus", "Uploaded corpus on which --sae-uri is analysed.")]
HookName = Annotated[
    str | None, option("--hook", "The hook that --sae-uri reads: blocks.3.hook_resid_post.", "what its files say")
]
MaxTokens = Annotated[int | None, option("--max-tokens", "Most tokens of the corpus, with --sae-uri.", "10,000,000")]
Wait = Annotated[bool, typer.Option("--wait", help="Accept a job that has not finished; start when it completes.")]
SaeName = Annotated[str | None, option("--sae", "Which SAE of a job with several: its name, as the result lists it.")]
TopTexts = Annotated[int | None, option("--top-texts", "Top texts kept a feature.", "20")]
ContextTokens = Annotated[int | None, option("--context-tokens", "Tokens kept on each side of the strongest.", "32")]
Quantiles = Annotated[int | None, option("--quantiles", "Quantiles to sample texts from.", "5")]
ContrastTexts = Annotated[int | None, option("--contrast-texts", "Silent texts kept a feature.", "10")]
Keywords = Annotated[int | None, option("--keywords", "Keywords kept a feature.", "10")]
Seed = Annotated[int | None, option("--seed", "Seed of every random choice.", "0")]
EvidenceText = Annotated[
    str | None,
    option("--evidence-text", "How much corpus text is kept: full, redacted (by rules), or none.", "full"),
]
Rules = Annotated[
    str | None,
    option("--rules", "Category and tag rules: the name of a file in the home's rules folder.", "the built-in"),
]
