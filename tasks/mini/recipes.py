"""The 36 tasks of `mini`, in the order of MMEB: each row says who makes its examples, how.

The one idea: an out-of-distribution task is the same kind of task in a way that no training part
has: `novel` names it.
"""

from __future__ import annotations

from collections.abc import Mapping

from mmeb_harness.tasks.mini.makers import (
    captions,
    charts,
    dialogues,
    digits,
    edits,
    entries,
    flags,
    forms,
    garments,
    infographics,
    memes,
    news,
    news_pictures,
    objects,
    pages,
    places,
    signs,
    similar,
)
from mmeb_harness.tasks.mini.makers.crops import (
    Pointing,
    by_corner,
    by_look,
    by_place,
    by_thing,
    pointing,
    which_colour,
    which_neighbour,
)
from mmeb_harness.tasks.mini.makers.questions import (
    COMPARED,
    COMPARED_ANSWERS,
    FIGURE_ANSWERS,
    KNOWN,
    KNOWN_ANSWERS,
    TURNED,
    WHAT_WHERE_HOW_MANY,
    Quiz,
    asking,
)
from mmeb_harness.tasks.mini.pictures.style import (
    BLURRED,
    BUSY,
    BUSY_TRAITS,
    HELD_OUT_PAIRS,
    HELD_OUT_TRAITS,
)
from mmeb_harness.tasks.mini.pictures.words import OBJECTS
from mmeb_harness.tasks.mini.recipe import Recipe

CLASSIFICATION: tuple[Recipe, ...] = (
    Recipe(
        name="ImageNet-1K",
        make=digits.digit(digits.Part.TRAINING),
        make_evaluation=digits.digit(digits.Part.FIRST),
        listed=digits.WORDS.targets,
    ),
    Recipe(name="N24News", make=news.which_news, listed=news.NAMES.targets),
    Recipe(name="HatefulMemes", make=memes.hateful_or_not, listed=memes.LABELS),
    Recipe(name="VOC2007", make=objects.what_it_is, listed=objects.NAMES),
    Recipe(name="SUN397", make=places.which_place(), listed=places.NAMES.targets),
    Recipe(
        name="Place365",
        make=places.which_place(places.Rendition.WASH),
        listed=places.NAMES.targets,
        novel=frozenset({places.Rendition.WASH.trait}),
    ),
    Recipe(
        name="ImageNet-A",
        make=digits.digit(digits.Part.TRAINING, digits.TILTED),
        make_evaluation=digits.digit(digits.Part.SECOND, digits.TILTED),
        listed=digits.WORDS.targets,
        novel=digits.TILTED_TRAITS,
    ),
    Recipe(
        name="ImageNet-R",
        make=digits.digit(digits.Part.TRAINING, renditions=digits.OTHER_RENDITIONS),
        make_evaluation=digits.digit(digits.Part.THIRD, renditions=digits.OTHER_RENDITIONS),
        listed=digits.WORDS.targets,
        novel=digits.RENDITION_TRAITS,
    ),
    Recipe(
        name="ObjectNet",
        make=objects.which_of_the_held_out,
        listed=objects.HELD_OUT_NAMES,
        novel=HELD_OUT_TRAITS,
    ),
    Recipe(
        name="Country211",
        make=flags.which_flag,
        listed=flags.NAMES,
        novel=frozenset({flags.TRAIT}),
    ),
)

VQA: tuple[Recipe, ...] = (
    Recipe(
        name="OK-VQA",
        make=asking(Quiz(kinds=KNOWN, figures=(2, 3), things=OBJECTS)),
        listed=KNOWN_ANSWERS,
    ),
    Recipe(
        name="A-OKVQA", make=asking(Quiz(kinds=COMPARED, figures=(2, 3))), listed=COMPARED_ANSWERS
    ),
    Recipe(name="DocVQA", make=forms.question, listed=forms.ANSWERS),
    Recipe(name="InfographicsVQA", make=infographics.question, listed=infographics.ANSWERS),
    Recipe(name="ChartQA", make=charts.question, listed=charts.ANSWERS),
    Recipe(
        name="Visual7W",
        make=asking(Quiz(kinds=WHAT_WHERE_HOW_MANY, figures=(2, 4))),
        listed=FIGURE_ANSWERS,
    ),
    Recipe(name="ScienceQA", make=charts.of_tubes, listed=charts.ANSWERS, novel=charts.TUBE_TRAITS),
    Recipe(
        name="VizWiz",
        make=asking(Quiz(kinds=WHAT_WHERE_HOW_MANY, figures=(2, 4), style=BLURRED)),
        listed=FIGURE_ANSWERS,
        novel=BLURRED.traits,
    ),
    Recipe(
        name="GQA",
        make=asking(Quiz(kinds=TURNED, figures=(4, 4), style=HELD_OUT_PAIRS)),
        listed=FIGURE_ANSWERS,
        novel=HELD_OUT_TRAITS,
    ),
    Recipe(name="TextVQA", make=signs.question, listed=signs.ANSWERS, novel=signs.SIGN_TRAITS),
)

RETRIEVAL: tuple[Recipe, ...] = (
    Recipe(name="VisDial", make=dialogues.find_by_dialogue),
    Recipe(name="CIRR", make=edits.find_edited),
    Recipe(name="VisualNews_t2i", make=news_pictures.find_photo),
    Recipe(name="VisualNews_i2t", make=news_pictures.find_news),
    Recipe(name="MSCOCO_t2i", make=captions.find_picture),
    Recipe(name="MSCOCO_i2t", make=captions.find_caption),
    Recipe(name="NIGHTS", make=similar.find_similar),
    Recipe(name="WebQA", make=entries.find_named),
    Recipe(name="FashionIQ", make=garments.find_garment, novel=garments.NOVEL),
    Recipe(name="Wiki-SS-NQ", make=pages.about, novel=pages.PAGE_TRAITS),
    Recipe(name="OVEN", make=entries.find_evidence, novel=BUSY_TRAITS),
    Recipe(name="EDIS", make=news_pictures.find_report, novel=HELD_OUT_TRAITS),
)

GROUNDING: tuple[Recipe, ...] = (
    Recipe(name="MSCOCO", make=pointing(Pointing(ways=(by_look, by_thing)))),
    Recipe(
        name="RefCOCO",
        make=pointing(Pointing(ways=(by_look, by_place, by_corner), style=BUSY)),
        novel=BUSY_TRAITS,
    ),
    Recipe(
        name="RefCOCO-Matching",
        make=pointing(Pointing(ways=(by_look, by_place), style=HELD_OUT_PAIRS, worded=True)),
        novel=HELD_OUT_TRAITS,
    ),
    Recipe(
        name="Visual7W-Pointing",
        make=pointing(Pointing(ways=(which_colour, which_neighbour))),
        novel=frozenset({"form which-colour", "form which-neighbour"}),
    ),
)

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe for recipe in (*CLASSIFICATION, *VQA, *RETRIEVAL, *GROUNDING)
}


def recipe_of(name: str) -> Recipe:
    """Return the recipe of a task."""
    return RECIPES[name]
