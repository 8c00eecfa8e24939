"""What charts are about: sorts of names, measures with the number formats they come in, and the ranges of their axes.

All names are plain words of at most 12 letters, without the marks that part a table in words (`;`, `:`, `|`, comma).
"""

from __future__ import annotations

from dataclasses import dataclass

from datasets.charts.table import NumberFormat


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SORTS: dict[str, tuple[str, ...]] = {
    "city": _names(
        "Accra Amman Athens Austin Baku Bamako Bergen Berlin Bern Bogota Boston Cairo Chennai Chicago Cork Dakar "
        "Dallas Delhi Denver Dhaka Doha Dubai Dublin Geneva Genoa Ghent Graz Hanoi Harare Havana Kyiv Kyoto Lagos "
        "Leeds Lima Lisbon London Lyon Madrid Malaga Manila Miami Milan Minsk Mumbai Munich Nairobi Naples Nice Osaka "
        "Oslo Ottawa Oxford Paris Perth Porto Prague Quito Rabat Riga Rome Seoul Sofia Sydney Taipei Tokyo Tunis "
        "Turin Utrecht Vienna Warsaw York Zagreb Zurich"
    ),
    "country": _names(
        "Albania Algeria Angola Austria Belgium Benin Bolivia Brazil Bulgaria Canada Chad Chile China Croatia Cuba "
        "Cyprus Denmark Ecuador Egypt Estonia Fiji Finland France Gabon Germany Ghana Greece Guinea Haiti Hungary "
        "Iceland India Iran Iraq Ireland Israel Italy Jamaica Japan Jordan Kenya Kuwait Laos Latvia Lebanon Libya "
        "Malta Mexico Morocco Nepal Niger Nigeria Norway Oman Panama Peru Poland Portugal Qatar Romania Rwanda "
        "Senegal Serbia Spain Sudan Sweden Syria Togo Tunisia Turkey Uganda Ukraine Uruguay Vietnam Yemen Zambia"
    ),
    "product": _names(
        "Bags Belts Bikes Boats Books Boots Bread Butter Cakes Cameras Candles Cars Chairs Cheese Clocks Coats Coffee "
        "Desks Dresses Flour Gloves Guitars Hats Honey Jackets Jeans Juice Lamps Laptops Milk Mugs Paint Pens Phones "
        "Pianos Pillows Plates Radios Rings Rugs Salt Scarves Shirts Shoes Skis Soap Socks Sofas Spoons Sugar Tables "
        "Tablets Tea Tents Ties Tools Towels Toys Tyres Vans Watches Wine"
    ),
    "fruit": _names(
        "Apples Apricots Bananas Cherries Dates Figs Grapes Guavas Kiwis Lemons Limes Mangoes Melons Olives Oranges "
        "Papayas Peaches Pears Plums Quinces"
    ),
    "crop": _names(
        "Barley Beans Beets Cabbage Carrots Cocoa Corn Cotton Garlic Hemp Lentils Millet Oats Onions Peas Peppers "
        "Potatoes Pumpkins Rice Rye Sorghum Soy Spinach Tomatoes Wheat"
    ),
    "animal": _names(
        "Bears Bees Camels Cats Cows Deer Dogs Ducks Eagles Foxes Frogs Geese Goats Hares Hens Horses Lions Mice "
        "Moose Otters Owls Pigs Rabbits Rats Seals Sheep Swans Tigers Trout Turtles Whales Wolves Zebras"
    ),
    "subject": _names(
        "Algebra Art Biology Botany Chess Dance Drama Ecology French German Geology Greek Hebrew History Italian "
        "Latin Law Logic Maths Music Physics Poetry Russian Science Spanish Zoology"
    ),
    "sport": _names(
        "Archery Boxing Cricket Cycling Diving Fencing Football Golf Handball Hockey Judo Karate Polo Rowing Rugby "
        "Running Sailing Skating Skiing Soccer Squash Surfing Swimming Tennis Yoga"
    ),
    "source": _names("Biomass Coal Gas Geothermal Hydro Nuclear Oil Peat Solar Tidal Wind Wood"),
    "transport": _names("Bicycle Boat Bus Car Ferry Metro Plane Scooter Taxi Train Tram Truck Walking"),
    "department": _names(
        "Audit Catering Design Finance Legal Library Sales Office Planning Press Repair Safety Stores Support"
    ),
    "material": _names(
        "Brass Bronze Clay Copper Glass Gold Iron Lead Marble Nickel Paper Plastic Rubber Silk Silver Steel Stone Tin Wool Zinc"
    ),
    "tree": _names(
        "Alder Ash Aspen Beech Birch Cedar Elm Fir Hazel Larch Linden Maple Oak Palm Pine Poplar Spruce Walnut Willow Yew"
    ),
    "instrument": _names(
        "Banjo Bassoon Cello Clarinet Cornet Drums Flute Guitar Harp Horn Lute Oboe Organ Piano Trumpet Tuba Viola Violin"
    ),
    "drink": _names("Ale Beer Cider Cocoa Coffee Cola Juice Lager Milk Punch Rum Soda Tea Tonic Vodka Water Whisky Wine"),
    "team": _names(
        "Arrows Badgers Comets Dragons Falcons Giants Hawks Jets Kings Knights Panthers Pirates Rangers Rockets "
        "Royals Sharks Stars Storm Titans Wolves"
    ),
    "region": _names("Centre Coast Delta East Hills Islands North Plains South Uplands Valley West"),
    "group": _names(
        "Adults Boys Children Farmers Girls Men Nurses Pupils Seniors Teachers Teens Tourists Visitors Women Workers"
    ),
    "brand": _names(
        "Acme Apex Astra Borea Cobalt Delta Echo Fable Halo Ion Juno Kestrel Lumen Nova Onyx Orbit Pixel Quartz Sigma "
        "Terra Umbra Vega Zenith"
    ),
}
ORDERED: dict[str, tuple[str, ...]] = {
    "year": tuple(str(year) for year in range(1990, 2026)),
    "month": _names("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec"),
    "day": _names("Mon Tue Wed Thu Fri Sat Sun"),
    "week": tuple(f"W{n}" for n in range(1, 13)),
    "decade": tuple(f"{year}s" for year in range(1900, 2030, 10)),
}


@dataclass(frozen=True, slots=True)
class Scale:
    """A number format and the tick distances (in last places, all even) that suit it."""

    number: NumberFormat
    steps: tuple[int, ...]


PLAIN = Scale(NumberFormat(), (2, 4, 10, 20, 50, 100))
THOUSANDS = Scale(NumberFormat(thousands=True), (200, 500, 1000, 2000, 5000))
DOLLARS = Scale(NumberFormat(prefix="$"), (2, 4, 10, 20, 50, 100))
CENTS = Scale(NumberFormat(1, prefix="$"), (10, 20, 50))
PERCENT = Scale(NumberFormat(suffix="%"), (2, 4, 10, 20))
PERMILLE = Scale(NumberFormat(1, suffix="%"), (10, 20, 50))
MILLIONS = Scale(NumberFormat(1, suffix="M"), (2, 4, 10, 20, 50))
KILO = Scale(NumberFormat(suffix="K"), (2, 4, 10, 20, 50, 100))
BILLIONS = Scale(NumberFormat(1, prefix="$", suffix="B"), (2, 4, 10, 20))
ONE_PLACE = Scale(NumberFormat(1), (2, 4, 10, 20, 50))
TWO_PLACES = Scale(NumberFormat(2), (20, 50, 100))
PIE_SCALES = (NumberFormat(suffix="%"), NumberFormat(1, suffix="%"))

MEASURES: dict[str, tuple[Scale, ...]] = {
    "Sales": (PLAIN, THOUSANDS, DOLLARS, MILLIONS, KILO),
    "Revenue": (DOLLARS, BILLIONS, MILLIONS),
    "Profit": (DOLLARS, CENTS, MILLIONS),
    "Exports": (BILLIONS, MILLIONS, KILO),
    "Imports": (BILLIONS, MILLIONS, KILO),
    "Output": (THOUSANDS, KILO, ONE_PLACE),
    "Visitors": (THOUSANDS, KILO, PLAIN),
    "Members": (THOUSANDS, PLAIN),
    "Orders": (THOUSANDS, PLAIN),
    "Price": (DOLLARS, CENTS),
    "Cost": (DOLLARS, CENTS),
    "Growth": (PERCENT, PERMILLE),
    "Share": (PERCENT, PERMILLE),
    "Support": (PERCENT,),
    "Turnout": (PERCENT, PERMILLE),
    "Score": (PLAIN, ONE_PLACE, TWO_PLACES),
    "Rating": (ONE_PLACE, TWO_PLACES),
    "Points": (PLAIN,),
    "Hours": (PLAIN, ONE_PLACE),
    "Demand": (PLAIN, ONE_PLACE, KILO),
    "Stock": (PLAIN, THOUSANDS),
    "Budget": (DOLLARS, MILLIONS, BILLIONS),
    "Use": (PLAIN, PERCENT, ONE_PLACE),
    "Weight": (PLAIN, ONE_PLACE),
    "Votes": (THOUSANDS, KILO, PERCENT),
    "Downloads": (MILLIONS, KILO),
    "Accidents": (PLAIN,),
    "Waste": (PLAIN, ONE_PLACE),
    "Water use": (PLAIN, ONE_PLACE),
    "Income": (DOLLARS, KILO),
}
