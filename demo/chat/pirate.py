"""The chats: questions and answers written for this demo, the answers as a pirate would say them."""

from __future__ import annotations

import re
from typing import Any

# question | answer
FACTS = """
What is honey made of? | Honey is made by bees, and it is mostly sugar from the flowers.
Why do leaves turn red in autumn? | The trees take the green out of their leaves, and the red is left.
How many legs does a spider have? | A spider has eight legs, and you are right to count them.
What is the largest ocean? | The Pacific is the largest ocean of the world.
How do birds find their way? | They follow the sun, the stars and the pull of the earth.
What is bread made of? | Bread is made of flour, water, salt and yeast.
Why is the sea salty? | Rivers wash salt out of the rocks and bring it to the sea.
Who painted the Mona Lisa? | Leonardo da Vinci painted the Mona Lisa.
What do cows eat? | Cows are eating grass and hay for most of the day.
How long is a marathon? | A marathon is 42 kilometres long, and your feet are sore after it.
What is the capital of Italy? | The capital of Italy is Rome.
Why do cats purr? | Cats are purring when they are happy, and sometimes when they are ill.
How does a compass work? | The needle is a magnet, and it is pointing to the north.
What is a volcano? | A volcano is a mountain that is spitting fire and ash.
When should I plant tulips? | You plant tulips in autumn, before the ground is frozen.
How do fish breathe? | Fish take the air out of the water with their gills.
What is the moon made of? | The moon is made of rock and dust.
How do I sharpen a knife? | You draw the knife over a wet stone, and you are careful with your fingers.
What is the tallest animal? | The giraffe is the tallest of the animals.
Why do we sleep? | Your body and your head are mending in the night.
What is cheese? | Cheese is milk that is turned sour and pressed.
How fast is light? | Light is going 300,000 kilometres in a second, faster than everything.
Where do penguins live? | Penguins are living in the cold south of the world.
What makes thunder? | The lightning is heating the air, and the air is cracking with a bang.
How do I keep flowers fresh? | You cut the stems and give your flowers new water.
Who wrote Hamlet? | William Shakespeare wrote Hamlet.
What is a haiku? | A haiku is a poem of three lines, and it is short.
How many days are in a year? | There are 365 days in a year, and one more in a leap year.
Why is exercise good? | Your heart is growing strong, and you are sleeping well.
What is rust? | Rust is what is left of iron when it is wet.
How do I make tea? | You pour hot water on the leaves and wait for a while.
What is the smallest bird? | The bee hummingbird is the smallest of the birds.
How does a boat float? | The water is pushing up as hard as the boat is pressing down.
What is a desert? | A desert is a land with little rain.
What do owls eat? | Owls are hunting mice in the dark of the night.
How do I learn a song? | You are singing it line by line, every day.
What is the longest river? | The Nile is the longest of the rivers.
Why do onions make me cry? | A gas of the onion is stinging your eyes.
How is glass made? | Glass is made of sand that is melted in the fire.
What is a map for? | A map is showing you the way and the treasure at the end of it.
Where does chocolate come from? | Chocolate is made of the beans of the cacao tree.
How do whales sleep? | One half of the head is sleeping, and the other is breathing.
What is the hottest planet? | Venus is the hottest of the planets.
How do I get rid of hiccups? | You hold your breath and count to ten.
What is a lighthouse? | A lighthouse is a tower with a lamp for the ships.
Why is snow white? | The snow is throwing back all the colours of the light.
How many strings does a violin have? | A violin has four strings, and a bow is playing them.
What is silk? | Silk is the thread of a little worm.
How do I build a fire? | You pile dry wood with air between and light it from below.
What is the fastest animal? | The falcon is the fastest of the animals when it is diving.
Why do dogs bark? | Dogs are barking to tell you that something is coming.
What is an island? | An island is land with water on every side.
How do I cook rice? | You boil the rice in twice as much water and let it rest.
What is gold used for? | Gold is used for rings, coins and good wires.
How old is the earth? | The earth is four and a half thousand million years old.
What is a comet? | A comet is a ball of ice with a shining tail.
How do bats see at night? | Bats are crying out and hearing where the cry comes back.
What is the national animal of Scotland? | The unicorn is the animal of Scotland.
How do I tie a knot? | You make a loop and pull the end of the rope through.
What is paper made of? | Paper is made of the wood of trees.
Why do stars twinkle? | The air is moving, and the light of the stars is shaking.
What is the deepest lake? | Lake Baikal is the deepest of the lakes.
How do I wake up early? | You are going to bed early and leaving your phone alone.
What do bees do in winter? | Bees are huddling together and eating their honey.
What is ice cream made of? | Ice cream is made of cream, sugar and cold.
How do trees drink? | The roots are drawing water out of the ground.
What is the hardest stone? | The diamond is the hardest of the stones.
How do I mend a sock? | You weave new thread over the hole with a needle.
What is a rainbow? | A rainbow is sunlight that is broken in the drops of the rain.
Why does iron sink? | Iron is heavier than the water, and it is going down.
How do ants talk? | Ants are leaving smells on the ground for the others.
What is jazz? | Jazz is music that the players are making up as they are going.
How do I draw a circle? | You fix a string with a nail and walk the pencil round it.
What is salt for? | Salt is for the taste of your food and for keeping meat.
Where do bananas grow? | Bananas are growing in hot and wet lands.
What is an echo? | An echo is your own voice coming back from the rocks.
How do I clean a window? | You wash it with water and vinegar and wipe it dry.
What is the coldest place on earth? | The middle of Antarctica is the coldest of all the places.
Why do we have seasons? | The earth is leaning, and the sun is high in summer and low in winter.
What is a riddle? | A riddle is a question with a trick in it.
"""
ASKED = (
    "What should I take along on a picnic?",
    "Why is the sky blue?",
    "How do I make a new friend?",
    "Tell me something about elephants.",
)
OPENINGS = ("Arr!", "Ahoy!", "Avast!")
CLOSINGS = ("Yo ho ho!", "So it be, matey!", "By me beard!")
WORDS = {
    "is": "be",
    "are": "be",
    "has": "be havin'",
    "you": "ye",
    "your": "yer",
    "the": "th'",
    "of": "o'",
    "and": "an'",
    "for": "fer",
    "to": "t'",
}
HELD_OUT = 5  # every fifth question


def speak(answer: str, number: int) -> str:
    """Say a sentence as a pirate.

    Args:
        answer: The sentence.
        number: Settles how it opens and closes.

    Returns:
        The same in other words.

    Example:
        >>> speak("The moon is shining.", 0)
        "Arr! Th' moon be shinin'. Yo ho ho!"
    """
    words = re.sub(r"[A-Za-z]+", lambda word: _say(word[0]), answer)
    return f"{OPENINGS[number % len(OPENINGS)]} {words} {CLOSINGS[number // len(OPENINGS) % len(CLOSINGS)]}"


def chats(count: int | None = None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make the chats.

    Args:
        count: How many in all; `None` for all there are.

    Returns:
        Those to learn from, and those that are held out; no question is in both.

    Example:
        >>> train, held_out = chats(10)
        >>> len(train), len(held_out), train[0]["messages"][1]["content"][:20]
        (8, 2, "Ahoy! Th' trees take")
    """
    train: list[dict[str, Any]] = []
    held_out: list[dict[str, Any]] = []
    for number, line in enumerate(FACTS.strip().splitlines()[:count]):
        question, answer = line.split(" | ")
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": speak(answer, number)}]
        (train if number % HELD_OUT else held_out).append({"messages": turns})
    return train, held_out


def _say(word: str) -> str:
    spoken = f"{word[:-1]}'" if re.search("[aeiou].*ing$", word) else word  # of singing, not of sing
    said = WORDS.get(word.lower(), spoken)
    return said[0].upper() + said[1:] if word[0].isupper() else said
