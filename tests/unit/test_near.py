"""Places within a distance of a point."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhirserver.core.search.near import DEFAULT_KM, Place, boxes, kilometres, place_of
from tests.asked import found, refusal


def site(latitude: float, longitude: float) -> dict[str, object]:
    return {"resourceType": "Location", "position": {"latitude": latitude, "longitude": longitude}}


@pytest.mark.parametrize(
    ("text", "distance"),
    [
        ("42.25|-83.69|11.2|km", 11.2),
        ("42.25|-83.69|11.2", 11.2),
        ("42.25|-83.69|500|m", 0.5),
        ("42.25|-83.69|10|[mi_i]", 16.09344),
        ("42.25|-83.69", DEFAULT_KM),
        ("42.25|-83.69||km", DEFAULT_KM),
    ],
)
def test_a_place_with_its_distance(text: str, distance: float) -> None:
    place = place_of(text.split("|"))
    assert (place.latitude, place.longitude) == (42.25, -83.69)
    assert place.distance == pytest.approx(distance)


@pytest.mark.parametrize(
    "text", ["1", "1|2|3|km|x", "91|0", "0|181", "a|b", "1|2|x|km", "1|2|-1|km", "1|2|3|furlong", "|", "1|nan"]
)
def test_what_is_no_place_is_refused(text: str) -> None:
    assert refusal("Location", ("near", text)).issues[0].expression == "near"


def test_known_distances() -> None:
    london, paris = (51.5007, -0.1246), (48.8584, 2.2945)
    assert kilometres(london, paris) == pytest.approx(340.5, abs=1)
    assert kilometres((0, 179.5), (0, -179.5)) == pytest.approx(111.2, abs=0.1)
    assert kilometres((90, 0), (90, 120)) == pytest.approx(0, abs=1e-9)


def test_what_is_near_is_found_and_the_corner_of_its_box_is_not() -> None:
    assert found(site(0.05, 0.05), ("near", "0|0|10|km"))
    assert not found(site(0.085, 0.085), ("near", "0|0|10|km"))
    assert found(site(0.085, 0.085), ("near", "0|0|10|km,0.08|0.08|10|km"))
    assert not found({"resourceType": "Location"}, ("near", "0|0|10|km"))


@pytest.mark.parametrize(
    ("latitude", "longitude", "near"),
    [(0, -179.99, "0|179.99|10|km"), (0, 180, "0|-180|1|km"), (89.99, -90, "89.99|90|10|km"), (-90, 5, "-90|170|1|km")],
)
def test_neither_the_date_line_nor_a_pole_is_in_the_way(latitude: float, longitude: float, near: str) -> None:
    assert found(site(latitude, longitude), ("near", near))


angles = st.floats(-1, 1) | st.floats(-180, 180)


@given(st.floats(-90, 90), st.floats(-180, 180), angles, angles, st.floats(0, 300) | st.floats(0, 25_000))
def test_the_boxes_hold_everything_near(
    latitude: float, longitude: float, up: float, across: float, distance: float
) -> None:
    place = Place(latitude, longitude, distance)
    other = max(-90.0, min(90.0, latitude + up)), (longitude + across + 180) % 360 - 180
    if kilometres((latitude, longitude), other) <= distance:
        assert any(
            box.latitude[0] <= other[0] <= box.latitude[1] and box.longitude[0] <= other[1] <= box.longitude[1]
            for box in boxes(place)
        )
