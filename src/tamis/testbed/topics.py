"""The topics of the testbed: what its lists are about. A topic says nothing about the skill asked for."""

TOPICS: dict[str, tuple[str, ...]] = {
    topic: tuple(words.split())
    for topic, words in {
        "animals": "fox wolf bear deer horse goat camel tiger lion mouse rabbit monkey zebra otter badger donkey",
        "fruits": "apple pear plum grape lemon mango peach cherry banana melon fig apricot orange papaya quince olive",
        "tools": "hammer saw drill file wrench pliers chisel ladder nail screw rope bucket shovel rake axe wedge",
        "clothes": "shirt coat hat scarf glove sock shoe belt dress skirt jacket vest boot tie sweater apron",
        "instruments": "piano violin flute drum guitar harp trumpet cello organ banjo oboe horn tuba lute lyre bell",
        "rooms": "hall cellar attic garage study nursery pantry lobby porch terrace office studio annex kitchen den "
        "loft",
        "vehicles": "car bus train plane boat truck bicycle tram ferry canoe rocket sled wagon taxi van scooter",
        "colours": "red blue green yellow purple pink brown black white grey silver gold crimson beige violet indigo",
        "limbs": "hand foot head arm leg knee elbow shoulder finger toe nose ear eye mouth neck thumb",
        "trees": "oak pine birch maple cedar willow elm ash beech poplar spruce walnut laurel cypress larch hazel",
    }.items()
}
"""Topics of the pool, each with its 16 words; no word belongs to two topics."""

HELD_OUT_TOPICS: dict[str, tuple[str, ...]] = {
    topic: tuple(words.split())
    for topic, words in {
        "jobs": "baker doctor farmer teacher lawyer pilot nurse painter sailor tailor judge singer waiter miner diver "
        "cook",
        "dishes": "spoon fork knife plate bowl cup kettle oven pan jar ladle whisk tray sieve mug toaster",
    }.items()
}
"""Topics that only the targets use."""
