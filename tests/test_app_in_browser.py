"""The page as its visitors see it, in a real browser."""

import json
from contextlib import contextmanager

import pytest
from toy_model import ANSWERS

playwright = pytest.importorskip("playwright.sync_api")
ASK = "is it red?"
PATIENCE = 60_000  # milliseconds; what is asked for comes sooner, but not beside many other tests
playwright.expect.set_options(timeout=PATIENCE)


@contextmanager
def visiting(browser, address):
    """The page as a new visitor sees it, who is told of no error."""
    said = []
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.on("console", lambda message: message.type == "error" and said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"{address}?question=is+it+blue%3F")
    playwright.expect(page.get_by_label("Question")).to_have_value("is it blue?")  # from the link: the page is ready
    yield page
    page.close()
    assert said == []


@pytest.fixture
def page(browser, served):
    with visiting(browser, served[1]) as page:
        yield page


def ask(page, question, times):
    """Type the question, press Enter, wait until so many answers stand in the list."""
    page.get_by_label("Question").fill(question)
    page.get_by_label("Question").press("Enter")
    page.wait_for_function(f"document.querySelectorAll('.message.bot').length === {times}")


def test_a_visitor_asks_about_a_picture(page, served):
    page.set_input_files("input[type=file]", served[0] / "image.png")
    ask(page, "is it red?", 1)
    heat_map = page.locator("#heat-map img")
    first = heat_map.get_attribute("src")
    assert page.locator("#best").inner_text() in ANSWERS
    assert "question=is+it+red%3F" in page.url
    ask(page, "how many shapes are there?", 2)
    page.wait_for_function("src => document.querySelector('#heat-map img').src !== src", arg=first)
    page.get_by_label("It shows").click()
    second = heat_map.get_attribute("src")
    page.get_by_role("option", name="attention, layer 2").click()
    page.wait_for_function("src => document.querySelector('#heat-map img').src !== src", arg=second)


def test_the_conversation_goes_on_when_the_pictures_file_is_deleted(page, served):
    page.set_input_files("input[type=file]", served[0] / "image.png")
    ask(page, "is it red?", 1)
    sent = (served[0] / "image.png").read_bytes()
    kept = [file for file in (served[0] / "uploads").rglob("*.png") if file.read_bytes() == sent]
    assert kept
    for file in kept:
        file.unlink()
    ask(page, "is it blue?", 2)


def test_a_fault_covers_nothing_and_another_picture_begins_anew(page, served):
    page.set_input_files("input[type=file]", served[0] / "image.png")
    ask(page, "is it <b>red</b>?", 1)
    playwright.expect(page.locator(".message.user")).to_contain_text("is it <b>red</b>?")
    page.get_by_label("Question").fill("")
    page.get_by_label("Question").press("Enter")
    page.wait_for_selector("text=Type a question about the picture.")
    covers = page.locator("[data-testid=status-tracker]").filter(has_text="Error")
    assert covers.count() and not any(cover.is_visible() for cover in covers.all())
    heat_map = page.locator("#heat-map img")
    first = heat_map.get_attribute("src")
    opacity = page.locator("input[type=range]")
    opacity.focus()
    opacity.press("ArrowRight")
    page.wait_for_function("src => document.querySelector('#heat-map img').src !== src", arg=first)
    page.get_by_label("Remove Image").click()
    playwright.expect(page.locator("#best")).to_have_text("…")
    assert heat_map.count() == page.locator(".message").count() == 0
    page.set_input_files("input[type=file]", served[0] / "image.png")  # the same again, and still anew
    page.wait_for_selector("#picture img")
    opacity.press("ArrowLeft")
    ask(page, ASK, 1)
    assert page.locator(".message.user").count() == 1


def test_a_slow_line_loses_nothing(browser, served):
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    line = page.context.new_cdp_session(page)
    line.send("Network.enable")
    slow = {"offline": False, "latency": 700, "downloadThroughput": -1, "uploadThroughput": -1}
    line.send("Network.emulateNetworkConditions", slow)
    page.goto(f"{served[1]}?question=is+it+blue%3F")
    page.set_input_files("input[type=file]", served[0] / "image.png")
    ask(page, ASK, 1)
    page.wait_for_timeout(1500)  # what was asked of the server before has come
    playwright.expect(page.get_by_label("Question")).to_have_value(ASK)
    playwright.expect(page.locator(".message.user")).to_contain_text(ASK)
    assert page.locator("#best").inner_text() in ANSWERS
    page.close()


def test_the_answer_comes_into_view(page, served):
    page.set_viewport_size({"width": 360, "height": 740})
    page.set_input_files("input[type=file]", served[0] / "image.png")
    ask(page, "is it red?", 1)
    playwright.expect(page.locator("#best")).to_be_in_viewport()


def test_an_example_needs_nothing(browser, served):
    # The next visitor finds it, too. It is a visitor and no reload: Gradio's page logs an error of its own when it is
    # left while its stream is still open.
    for _ in range(2):
        with visiting(browser, served[1]) as page:
            page.get_by_text("what shape is in the image?").first.click()
            playwright.expect(page.get_by_label("Question")).to_have_value("what shape is in the image?")
            page.wait_for_selector("#picture img")
            page.get_by_role("button", name="Ask", exact=True).click()
            page.wait_for_selector("#ranked")


def test_a_text_file_is_refused_in_plain_words(page, served):
    page.set_input_files("input[type=file]", served[0] / "text.jpg")
    page.get_by_label("Question").fill(ASK)
    page.get_by_role("button", name="Ask", exact=True).click()
    page.wait_for_selector("text=/picture/i >> visible=true")
    assert "Traceback" not in page.content()


def test_the_report_is_on_the_second_tab(page):
    page.get_by_role("tab", name="Evaluation").click()
    frame = page.frame_locator("iframe[title='Evaluation report']")
    assert frame.locator("h1").inner_text() == "The report" and frame.locator("#ran").count() == 1


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 375])
def test_it_fits_phones_and_the_dark_and_is_accessible(page, served, width, colours):
    from axe_playwright_python.sync_playwright import Axe

    page.emulate_media(color_scheme=colours)
    page.set_viewport_size({"width": width, "height": 800})
    page.set_input_files("input[type=file]", served[0] / "image.png")
    ask(page, ASK, 1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page).response["violations"]
    grave = [
        (each["id"], [n["html"][:120] for n in each["nodes"]])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
    assert grave == [], json.dumps(grave, indent=1)
