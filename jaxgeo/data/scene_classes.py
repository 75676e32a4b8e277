"""Classes of the pixels of synthetic scenes: numbers, names and colours."""

from jaxgeo.data.woodscape_classes import ClassTable

(
    EGO_VEHICLE,
    ROAD,
    LANE_MARKING,
    KERB,
    PAVEMENT,
    GRASS,
    BUILDING,
    CAR,
    PERSON,
    POLE,
    TREE,
    SKY,
) = range(12)

SCENE_CLASSES = ClassTable(
    names=(
        "ego vehicle",
        "road",
        "lane marking",
        "kerb",
        "pavement",
        "grass",
        "building",
        "car",
        "person",
        "pole",
        "tree",
        "sky",
    ),
    merging=tuple(range(12)),
    colors=(
        (0, 160, 160),
        (128, 64, 128),
        (255, 255, 255),
        (196, 196, 60),
        (244, 35, 232),
        (152, 210, 120),
        (70, 70, 70),
        (0, 0, 200),
        (220, 20, 60),
        (240, 150, 30),
        (40, 110, 35),
        (70, 130, 180),
    ),
    weights=None,
)
