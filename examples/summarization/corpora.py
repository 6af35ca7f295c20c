"""The corpora: where their files are from, and the ``(document, [summary, ...])`` pairs in them."""

import hashlib
import json
import tarfile
from pathlib import PurePosixPath

STORIES = (  # a copy of the archives of cs.nyu.edu/~kcho/DMQA that needs no browser
    "https://huggingface.co/datasets/cnn_dailymail/resolve/11343c3752184397d56efc19a8a7cceb68089318/data"
)
URL_LISTS = "https://raw.githubusercontent.com/abisee/cnn-dailymail/master/url_lists"
DIALOGSUM = "https://raw.githubusercontent.com/cylnlp/dialogsum/main/DialogSum_Data"
XSUM = "XSUM-EMNLP18-Summary-Data-Original.tar.gz"
XSUM_PARTS = "XSum-TRAINING-DEV-TEST-SPLIT-90-5-5.json"
FILES = {
    "cnndm": {
        "cnn_stories.tgz": f"{STORIES}/cnn_stories.tgz",
        "dailymail_stories.tgz": f"{STORIES}/dailymail_stories.tgz",
        **{f"all_{part}.txt": f"{URL_LISTS}/all_{part}.txt" for part in ("train", "val", "test")},
    },
    "xsum": {
        XSUM: f"http://bollin.inf.ed.ac.uk/public/direct/{XSUM}",
        XSUM_PARTS: f"https://raw.githubusercontent.com/EdinburghNLP/XSum/master/XSum-Dataset/{XSUM_PARTS}",
    },
    "dialogsum": {f"{part}.jsonl": f"{DIALOGSUM}/dialogsum.{part}.jsonl" for part in ("dev", "test")},
    "gpt2": {
        "encoder.json": "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/encoder.json",
        "vocab.bpe": "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe",
        "dict.txt": "https://dl.fbaipublicfiles.com/fairseq/gpt2_bpe/dict.txt",
    },
}
SHA256 = {  # as published: huggingface/datasets (dataset_infos.json), tensorflow/datasets (url_checksums), tiktoken
    "cnn_stories.tgz": "e8fbc0027e54e0a916abd9c969eb35f708ed1467d7ef4e3b17a56739d65cb200",
    "dailymail_stories.tgz": "ad69010002210b7c406718248ee66e65868b9f6820f163aa966369878d14147e",
    "all_train.txt": "a5cee49f3a6c862c26ce29308236d2a99625ab6c86a43be22d5206b2790d8029",
    "all_val.txt": "81887e982b045083409c6ee838aede8ff4b97291605bcfb21bffc456a16991db",
    "all_test.txt": "c4f5efb5ec2126430a5c156efbd13d0e9c4cb490169e552c38b4a51981a009bd",
    XSUM: "10b48aa187fc9c904b30f76ca97e2da0de8d3a1238acc26acadef93e2001af90",
    XSUM_PARTS: "9c0c5d8f048a90bd68b19a34e4c30577ed270d3247b2119fa06a04ef46292068",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
ENDS = (".", "!", "?", "'", "`", '"', "\u2019", "\u201d", ")")
LINKS = {"Share this with", "Email", "Facebook", "Messenger", "Twitter", "Pinterest", "WhatsApp", "Linkedin"}
LINKS |= {"LinkedIn", "Copy this link", "These are external links and will open in a new window"}


def dialogsum(folder, parts):
    """The development part trains, but for its last 50 dialogues, which validate. Test dialogues have 3 summaries."""
    texts = {}
    for file in ("dev", "test"):
        rows = [json.loads(line) for line in (folder / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()]
        keys = [key for key in sorted(rows[0]) if key.startswith("summary")]
        texts[file] = [(row["dialogue"], [row[key] for key in keys]) for row in rows]
    texts = {"train": texts["dev"][:-50], "valid": texts["dev"][-50:], "test": texts["test"]}
    return {part: texts[part] for part in parts}


def story(text):
    """``(article, [highlights])``, one after each @highlight; lines without an end, as captions, get a full stop."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ended = [line if line.endswith(ENDS) or line.startswith("@highlight") else f"{line}." for line in lines]
    first = ended.index("@highlight") if "@highlight" in ended else len(ended)
    highlights = [line for line in ended[first:] if line != "@highlight"]
    return " ".join(ended[:first]), [" ".join(highlights)]


def cnndm(folder, parts):
    """Cased and not tokenised, in the order of the URL lists; articles without text or highlights are left out."""
    wanted = {}
    for part in parts:
        urls = (folder / f"all_{part.replace('valid', 'val')}.txt").read_text(encoding="utf-8").splitlines()
        wanted[part] = [hashlib.sha1(url.strip().encode()).hexdigest() for url in urls]
    names = {name for part in wanted.values() for name in part}
    texts = {}
    for archive in ("cnn_stories.tgz", "dailymail_stories.tgz"):
        texts.update(members(folder / archive, ".story", names))
    stories = {part: [story(texts[name]) for name in wanted[part] if name in texts] for part in parts}
    return {part: [pair for pair in stories[part] if pair[0] and pair[1][0]] for part in parts}


def xsum(folder, parts):
    """The first sentence of an article is the summary of the rest."""
    ids = json.loads((folder / XSUM_PARTS).read_text())
    wanted = {part: ids[part.replace("valid", "validation")] for part in parts}
    texts = members(folder / XSUM, ".summary", {name for part in wanted.values() for name in part})
    return {part: [article(texts[name]) for name in wanted[part] if name in texts] for part in parts}


def article(text):
    """``(document, [first sentence])`` of a file of XSum, without the page's links."""
    kept = "\n".join(line for line in text.splitlines() if line.strip() and line.strip() not in LINKS)
    fields = kept.split("[SN]")  # "", URL, ..., TITLE, ..., FIRST-SENTENCE, ..., RESTBODY, ...
    sections = dict(zip(fields[1::2], fields[2::2]))
    return sections["RESTBODY"], [sections["FIRST-SENTENCE"]]


def members(archive, suffix, names):
    """The texts in a tar file, by name without folder and suffix, of those in ``names``; a link is none."""
    texts = {}
    with tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if member.isreg() and path.suffix == suffix and path.stem in names:
                texts[path.stem] = tar.extractfile(member).read().decode()
    return texts
