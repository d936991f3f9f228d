"""Which words and codes name which part of the body, and which name which projection.

Codes are those of PS3.16 CID 4031 (common anatomic regions) and Annex L, in SNOMED CT and the older SRT; the codes that
SRT was mapped to before (thoracic structure, thoracic cavity) stand beside today's, because devices still send them.
Texts are the defined terms of BodyPartExamined (PS3.16 Annex L) and what devices write instead in the language they
are set to.

A wrong synonym lets a version read the wrong part of the body, a missing one refuses a study: so words that also name
something else are left out. German BRUST, French POITRINE, Spanish PECHO, Italian PETTO and Dutch BORST are the breast
as well as the chest; RIBS and STERNUM are exposures of bone; ARM, FEET and MAIN stand in descriptions of chest
exposures (arm down, at six feet, main building).
"""

import re
import unicodedata
from typing import Final, Literal

Region = Literal[
    "abdomen", "ankle", "brain", "breast", "chest", "elbow", "foot", "forearm", "hand", "head", "heart", "hip", "jaw",
    "knee", "liver", "lower leg", "lung", "neck", "pelvis", "shoulder", "skull", "spine", "thigh", "upper arm", "wrist",
]  # fmt: skip
Projection = Literal["frontal", "lateral", "oblique"]
Table = tuple[tuple[str, str], ...]

REGION_CODES: Final[dict[Region, frozenset[str]]] = {
    "abdomen": frozenset({"818981001", "113345001", "T-D4000"}),
    "ankle": frozenset({"70258002", "T-15750"}),
    "brain": frozenset({"12738006", "T-A0100"}),
    "breast": frozenset({"76752008", "T-04000"}),
    "chest": frozenset({"816094009", "51185008", "43799004", "T-D3000"}),
    "elbow": frozenset({"16953009", "T-15430"}),
    "foot": frozenset({"56459004", "T-D9700"}),
    "forearm": frozenset({"14975008", "T-D8500"}),
    "hand": frozenset({"85562004", "T-D8700"}),
    "head": frozenset({"69536005", "T-D1100"}),
    "heart": frozenset({"80891009", "T-32000"}),
    "hip": frozenset({"29836001", "24136001", "T-D2500", "T-15710"}),
    "jaw": frozenset({"661005", "91609006", "T-D1213", "T-11180"}),
    "knee": frozenset({"72696002", "49076000", "T-D9200", "T-15720"}),
    "liver": frozenset({"10200004", "T-62000"}),
    "lower leg": frozenset({"30021000", "T-D9400"}),
    "lung": frozenset({"39607008", "T-28000"}),
    "neck": frozenset({"45048000", "T-D1600"}),
    "pelvis": frozenset({"816092008", "12921003", "T-D6000"}),
    "shoulder": frozenset({"16982005", "T-D2220"}),
    "skull": frozenset({"89546000", "T-11100"}),
    "spine": frozenset(
        {"421060004", "122494005", "122495006", "122496007", "T-D04FF", "T-11501", "T-11502", "T-11503"}
    ),
    "thigh": frozenset({"68367000", "T-D9100"}),
    "upper arm": frozenset({"40983000", "T-D8200"}),
    "wrist": frozenset({"74670003", "T-15460"}),
}

_REGION_WORDS: Final[dict[Region, str]] = {
    "abdomen": "ABDOMEN, ABDOMINAL, ABDO, KUB, BAUCH, VENTRE, ADDOME, BUIK, JAMA BRZUSZNA, 腹部, 복부, ЖИВОТ",
    "ankle": "ANKLE, SPRUNGGELENK, OSG, CHEVILLE, TOBILLO, CAVIGLIA, TORNOZELO, ENKEL, 足関節, 踝",
    "brain": "BRAIN, GEHIRN, CERVEAU, CEREBRO, CERVELLO, HERSENEN, ENCEPHALE, 颅脑, 뇌",
    "breast": "BREAST, MAMMA, MAMMO, MAMMOGRAPHY, MAMMOGRAPHIE, SEIN, SEINS, SENO, 乳房, 乳腺, 유방",
    "chest": "CHEST, THORAX, THORACIC, TORAX, TORACE, TORAKS, THORACALE, CXR, BRUSTKORB, BORSTKAS, "
    "BRÖSTKORG, KLATKA PIERSIOWA, HRUDNIK, MELLKAS, ГРУДНАЯ КЛЕТКА, ОГК, ОРГАНЫ ГРУДНОЙ КЛЕТКИ, ΘΩΡΑΚΑΣ, 胸部, 胸, "
    "흉부, 胸部正位, 胸部正面",
    "elbow": "ELBOW, ELLENBOGEN, ELLBOGEN, COUDE, CODO, GOMITO, COTOVELO, ELLEBOOG, 肘, 肘関節",
    "foot": "FOOT, FUSS, VORFUSS, PIED, PIEDE, VOET, 足, 足部, 발",
    "forearm": "FOREARM, UNTERARM, AVANT BRAS, ANTEBRAZO, AVAMBRACCIO, ONDERARM, 前腕, 前臂",
    "hand": "HAND, HANDS, FINGER, FINGERS, THUMB, HAENDE, MANO, 手, 手部, 手指, 손",
    "head": "HEAD, KOPF, TETE, CABEZA, TESTA, CABECA, HOOFD, 頭部, 头部, 머리, ГОЛОВА",
    "heart": "HEART, HERZ, COEUR, CORAZON, CUORE, CORACAO, 心臓, 心脏",
    "hip": "HIP, HIPS, HUEFTE, HUFTE, HANCHE, CADERA, QUADRIL, HEUP, 股関節, 髋",
    "jaw": "JAW, JAW REGION, MANDIBLE, MAXILLA, OPG, PANORAMIC, KIEFER, MACHOIRE, 顎",
    "knee": "KNEE, KNEES, KNIE, GENOU, RODILLA, GINOCCHIO, JOELHO, 膝, 膝関節, 무릎",
    "liver": "LIVER, LEBER, FOIE, HIGADO, FEGATO, FIGADO, 肝, 肝臓, 肝脏",
    "lower leg": "LOWER LEG, TIBIA, FIBULA, TIBFIB, UNTERSCHENKEL, JAMBE, PIERNA, 下腿, 小腿",
    "lung": "LUNG, LUNGS, LUNGE, LUNGEN, POUMON, POUMONS, PULMON, PULMONES, POLMONE, POLMONI, PULMAO, PULMOES, "
    "LONGEN, PLUCA, ЛЕГКИЕ, 肺, 肺部, 폐",
    "neck": "NECK, CUELLO, COLLO, PESCOCO, 頸部, 颈部, 목",
    "pelvis": "PELVIS, BECKEN, BASSIN, BACINO, BEKKEN, 骨盤, 骨盆, 골반",
    "shoulder": "SHOULDER, CLAVICLE, SCAPULA, SCHULTER, EPAULE, HOMBRO, SPALLA, OMBRO, SCHOUDER, 肩, 肩関節, 어깨",
    "skull": "SKULL, SCHAEDEL, SCHADEL, CRANE, CRANEO, CRANIO, SCHEDEL, 頭蓋, 头颅, ЧЕРЕП",
    "spine": "SPINE, CSPINE, TSPINE, LSPINE, SSPINE, CERVICAL SPINE, LUMBAR SPINE, THORACIC SPINE, WIRBELSAEULE, HWS, "
    "BWS, LWS, RACHIS, COLUMNA, COLONNA, WERVELKOLOM, 脊柱, 脊椎, 頸椎, 腰椎, 胸椎, 척추",
    "thigh": "THIGH, FEMUR, OBERSCHENKEL, CUISSE, MUSLO, COSCIA, 大腿",
    "upper arm": "UPPER ARM, HUMERUS, OBERARM, BRAZO, BRACCIO, 上腕, 上臂",
    "wrist": "WRIST, HANDGELENK, POIGNET, MUNECA, POLSO, PUNHO, 手関節, 腕关节",
}

# PS3.16 CID 4010 (DX view): SNOMED CT and SRT
PROJECTION_CODES: Final[dict[Projection, frozenset[str]]] = {
    "frontal": frozenset({"399348003", "272479007", "399033003", "R-10206", "R-40888", "R-10214", "R-10202"}),
    "lateral": frozenset(
        {"399067008", "399198007", "399173006", "399260004", "399352003"}
        | {"R-102CD", "R-10232", "R-10236", "R-10224", "R-10228"}
    ),
    "oblique": frozenset(
        {"399182000", "399312000", "399059000", "399135007", "399356000", "399006002", "399038007", "399236003"}
        | {"399184004", "399160007", "R-102C1", "R-10208", "R-10216", "R-10220", "R-40985", "R-10212", "R-10210"}
        | {"R-10234", "R-10238", "R-10204"}
    ),
}
# PS3.3 C.8.1.9.1 and C.8.11.5 (ViewPosition), and what devices write
_PROJECTION_WORDS: Final[dict[Projection, str]] = {
    "frontal": "AP, PA, FRONTAL, AP PA, ANTEROPOSTERIOR, POSTEROANTERIOR, ANTERO POSTERIOR, POSTERO ANTERIOR, "
    "PA CHEST, AP CHEST, 正位, 正面",
    "lateral": "LL, RL, LAT, LATERAL, LLAT, RLAT, LEFT LATERAL, RIGHT LATERAL, SEITLICH, PROFIL, PERFIL, LATERALE, "
    "側面, 侧位, 左侧位",
    "oblique": "LLO, RLO, RAO, LAO, RPO, LPO, OBLIQUE, SCHRAEG, OBLICUA, OBLIQUA, 斜位",
}


def plain(text: str) -> str:
    """A text without case, accents and punctuation, words separated by one blank."""
    opened = "".join(one for one in unicodedata.normalize("NFKD", text) if not unicodedata.combining(one))
    composed = unicodedata.normalize("NFKC", opened).upper().replace("ß", "SS")
    return " ".join(re.findall(r"\w+", composed.replace("_", " ")))


def _table(words: dict[str, str]) -> Table:
    """(word, name) of every word; longer words first, because a THORACIC SPINE is no thorax."""
    listed = ((plain(word), name) for name, line in words.items() for word in line.split(","))
    return tuple(sorted(set(listed), key=lambda entry: (-len(entry[0]), entry)))


REGION_WORDS: Final = _table({str(name): words for name, words in _REGION_WORDS.items()})
PROJECTION_WORDS: Final = _table({str(name): words for name, words in _PROJECTION_WORDS.items()})


CONTRAST_PHASE_WORDS: Final = _table(
    {
        "native": "NATIVE, NATIV, NATIF, NON CONTRAST, NO CONTRAST, W O CONTRAST, WITHOUT CONTRAST, UNENHANCED, "
        "SANS INJECTION, OHNE KM, SIN CONTRASTE, 平扫, 単純",
        "arterial": "ARTERIAL, ARTERIAL PHASE, ART, ARTERIELL, ARTERIELLE, ARTERIELLER, 动脉期, 動脈相",
        "portal": "PORTAL, PORTAL VENOUS, VENOUS, PORTALVENOES, PORTALVENÖS, PV, VEINEUX, PORTALE, 门脉期, 門脈相",
        "delayed": "DELAYED, DELAY, LATE, EQUILIBRIUM, SPÄT, SPAET, TARDIF, TARDIO, 延迟期, 平衡相",
    }
)
NO_CONTRAST_WORDS: Final = frozenset(
    plain(word)
    for word in ("NONE", "NO", "N", "NEGATIVE", "NO CONTRAST", "WITHOUT", "NATIVE", "NIL", "OHNE", "KEIN", "SANS")
)


def regions_of(text: str) -> frozenset[str]:
    """The regions that a text names; a side or a view beside them is no matter."""
    return named(text, REGION_WORDS)


def projections_of(text: str) -> frozenset[str]:
    """The projections that a text names."""
    return named(text, PROJECTION_WORDS)


def named(text: str, table: Table) -> frozenset[str]:
    """The names of those words of a table that stand in a text as whole words."""
    rest = f" {plain(text)} "
    found: set[str] = set()
    for word, name in table:
        if f" {word} " in rest:
            found.add(name)
            rest = rest.replace(f" {word} ", "  ")
    return frozenset(found)
