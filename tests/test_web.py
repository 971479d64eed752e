"""The page, as people meet it: its sessions over HTTP, and its screens in a real browser."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time

import httpx
import pytest

from conftest import made_once, save_tiny
from serving import OURS, Running, rows, wait_for_end
from tunesmith.serve.keys import list_keys, revoke_key
from tunesmith.serve.sessions import COOKIE, open_session
from tunesmith.web import live, shown
from tunesmith.web.rendered import POLICY

PAGES = ["/", "/jobs/rows", "/jobs/x", "/jobs/x/live", "/jobs/x/metrics.csv", "/models", "/chat", "/files", "/files/x"]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
LONG = 60_000  # ms


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    one = Running(tmp_path_factory.mktemp("serve"), made_once(tmp_path_factory, "tiny", save_tiny))
    yield one
    one.stop()


@pytest.fixture(scope="module")
def client(running):
    return running.client()


@pytest.fixture(scope="module")
def done(client):
    """A job that has succeeded."""
    file = client.files.create(file=rows(40), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=file.id, validation_file=file.id, suffix="mine", extra_body=OURS
    )
    return wait_for_end(client, job.id)


@contextlib.contextmanager
def visit(running, secret):
    """A visitor who has logged in."""
    with httpx.Client(base_url=running.url) as visitor:
        assert visitor.post("/login", data={"key": secret}).status_code == 303
        yield visitor


# Sessions


@pytest.mark.parametrize("path", PAGES)
def test_who_has_no_session_is_led_to_the_login_and_back(running, client, path):
    answer = httpx.get(running.url + path, cookies={COOKIE: "made-up"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/login?next={path.replace('/', '%2F')}")
    answer = httpx.post(f"{running.url}/login", data={"key": client.api_key, "next": path})
    assert (answer.status_code, answer.headers["location"]) == (303, path)


@pytest.mark.parametrize("elsewhere", ["https://evil.example", "//evil.example", "/\\evil.example", "evil"])
def test_the_login_leads_nowhere_else(running, client, elsewhere):
    answer = httpx.post(f"{running.url}/login", data={"key": client.api_key, "next": elsewhere})
    assert answer.headers["location"] == "/"


def test_a_session_is_a_cookie_that_scripts_cannot_read(running, client):
    answer = httpx.post(f"{running.url}/login", data={"key": f" {client.api_key}\n"})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert client.api_key not in cookie
    wrong = httpx.post(f"{running.url}/login", data={"key": "sk-ts-<b>wrong"})
    assert (wrong.status_code, "No such key" in wrong.text, "<b>" in wrong.text) == (403, True, False)
    other = httpx.post(f"{running.url}/login", data={"key": client.api_key}, headers={"Origin": "https://evil.example"})
    assert other.status_code == 403
    assert other.json()["error"]["code"] == "origin_not_allowed"


def test_the_cookie_alone_opens_no_route_of_the_api(running, client):
    with visit(running, client.api_key) as visitor:
        assert visitor.get("/v1/models").status_code == 401
        assert visitor.get("/v1/models", headers={"X-Tunesmith-Page": "1"}).status_code == 200


def test_a_session_ends_with_the_logout_and_with_its_key(running):
    one = running.client("leaving")
    with visit(running, one.api_key) as visitor:
        assert visitor.get("/").status_code == 200
        kept = visitor.cookies[COOKIE]
        assert visitor.post("/logout").status_code == 303
        assert httpx.get(f"{running.url}/", cookies={COOKIE: kept}).status_code == 303
    with visit(running, one.api_key) as visitor:
        revoke_key(running.stores.records, list_keys(running.stores.records)[-1].id)
        assert visitor.get("/").status_code == 303
        answer = visitor.get("/v1/models", headers={"X-Tunesmith-Page": "1"})
        assert (answer.status_code, "Log in again" in answer.text) == (401, True)


def test_an_old_session_has_ended(running, client, monkeypatch):
    key = list_keys(running.stores.records)[0]
    monkeypatch.setattr("tunesmith.serve.sessions.SECONDS", -1)
    token = open_session(running.stores.records, key)
    assert httpx.get(f"{running.url}/", cookies={COOKIE: token}).status_code == 303


# Pages


def test_pages_load_nothing_from_elsewhere_and_are_not_kept(running, client, done):
    with visit(running, client.api_key) as visitor:
        for path in ("/", "/models", "/chat", "/files", f"/jobs/{done.id}", f"/files/{done.training_file}", "/login"):
            answer = visitor.get(path)
            assert answer.status_code == 200, path
            assert answer.headers["content-security-policy"] == POLICY
            assert answer.headers["cache-control"] == "no-store"
            for address in re.findall(r'\s(?:src|href|action)="([^"]+)"', answer.text):
                assert address[0] in "/#", (path, address)
                if address.startswith("/static/"):
                    found = visitor.get(address)
                    assert found.status_code == 200, address
                    assert "immutable" in found.headers["cache-control"]
        for name in ("none.css", "../pages.py", "%2e%2e/pages.py", "web.css/x", "", "vendor"):
            assert visitor.get(f"/static/{name}").status_code == 404, name


def test_what_is_another_projects_is_not_there(running, client, done):
    with visit(running, running.client("other").api_key) as visitor:
        for path in (f"/jobs/{done.id}", f"/jobs/{done.id}/live", f"/jobs/{done.id}/metrics.csv",
                     f"/files/{done.training_file}", f"/files/{done.training_file}/found"):  # fmt: skip
            answer = visitor.get(path)
            assert (answer.status_code, "html" in answer.headers["content-type"]) == (404, True), path
        assert done.fine_tuned_model not in visitor.get("/").text + visitor.get("/models").text
        assert (
            done.fine_tuned_model
            not in visitor.get("/chat", params={"a": done.fine_tuned_model}).text.split("<select")[1]
        )


def told(visitor, id, after=0):
    with visitor.stream("GET", f"/jobs/{id}/live", params={"after": after}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]


def test_a_job_is_told_whole_and_from_where_a_watcher_was(running, client, done):
    with visit(running, client.api_key) as visitor:
        (whole,) = told(visitor, done.id)
        csv = visitor.get(f"/jobs/{done.id}/metrics.csv").text.splitlines()
        assert [one["step"] for one in whole["steps"]] == list(range(1, len(csv)))
        assert (whole["state"], whole["over"], list(whole["actions"])) == ("succeeded", True, [])
        said = [one.message for one in client.fine_tuning.jobs.list_events(done.id, limit=1000)]
        assert [one["message"] for one in whole["events"]] == said[::-1]
        assert "ckpt-step" in whole["checkpoints"]
        (rest,) = told(visitor, done.id, whole["number"] - 1)
        assert len(rest["events"]) < len(whole["events"])


def test_a_watcher_whose_session_ends_is_told_nothing_more_and_there_are_only_so_many(running, client, monkeypatch):
    file = client.files.create(file=rows(20), purpose="fine-tune")
    long = {"tunesmith": {**OURS["tunesmith"], "optim": {"batch_size": 1, "steps": 5000}}}
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, extra_body=long)
    wait_for_end(client, job.id, ("running",))
    with visit(running, client.api_key) as visitor, visitor.stream("GET", f"/jobs/{job.id}/live") as answer:
        lines = answer.iter_lines()
        assert json.loads(next(lines)[6:])["state"] in ("running", "validating_files")
        assert running.app.state.watchers == 1
        monkeypatch.setattr("tunesmith.web.pages.WATCHERS", 1)
        with visit(running, client.api_key) as another:
            assert another.get(f"/jobs/{job.id}/live").status_code == 503
        httpx.post(f"{running.url}/logout", cookies=dict(visitor.cookies))
        assert [line for line in lines if '"over": true' in line] == []  # it ends
    client.fine_tuning.jobs.cancel(job.id)
    deadline = time.monotonic() + 5
    while running.app.state.watchers:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def found_in(visitor, id, whole=0):
    deadline = time.monotonic() + 60
    while (answer := visitor.get(f"/files/{id}/found", params={"whole": whole})).status_code == 202:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return answer.text


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.jsonl", b'{"messages": [{"role": "user"}]}\n' * 3, "cannot be used"),
        ("x.png", bytes(range(256)), "cannot be read"),
        ("no ending", rows(12)[1], "12 rows"),
        ("../*?[a].jsonl", rows(12)[1], "12 rows"),
        ("-rf.csv", b"question,answer\nWhere?,There.\nWhen?,Now.\n", "2 rows"),
    ],
    ids=["broken", "binary", "no-ending", "odd-name", "dash"],
)
def test_what_check_finds_is_shown(running, client, name, content, said):
    file = client.files.create(file=(name, content), purpose="fine-tune")
    with visit(running, client.api_key) as visitor:
        assert said in found_in(visitor, file.id)
        whole = found_in(visitor, file.id, 1)
        assert "Traceback" not in whole
        assert str(running.folder) not in whole
        assert file.id in visitor.get("/files").text


def test_words_and_curves():
    assert [shown.in_words(s) for s in (0.2, 59, 60, 3599, 3600, 36_000, 172_800)] == [
        "0 s", "59 s", "1 min", "60 min", "1.0 h", "10 h", "2 days",
    ]  # fmt: skip
    assert [shown.in_bytes(n) for n in (3, 3_000, 3_250_000)] == ["3 bytes", "3.0 kB", "3.2 MB"]
    assert shown.spark([1.0]) == ""
    assert shown.spark([3.0, 2.0, 1.0]).startswith("M0.0,1.")
    assert shown.spark([2.0, 2.0]) == "M0.0,23.0 L100.0,23.0"
    assert shown.spark([float(n) for n in range(1000)]).count("L") < 70
    assert set(shown.ACTIONS) | set(live.OVER) == {"queued", "running", "paused", "succeeded", "failed", "cancelled"}


# In a browser


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("there is no Chromium: .ci/run installs it")
        pytest.skip("there is no Chromium: apt-get install chromium")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=LONG)
    with sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield one
        one.close()


@pytest.fixture
def open_page(browser, running, client):
    """Opens a page in a browser after the login; whatever goes wrong in its scripts fails the test."""
    from playwright.sync_api import expect

    contexts, wrong = [], []

    def noted(said):
        if said.type == "error" and not said.text.startswith("Failed to load"):  # an answer that is an error
            wrong.append(said.text)

    def opened(path="/", **look):
        contexts.append(browser.new_context(**look))
        page = contexts[-1].new_page()
        page.set_default_timeout(LONG)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", noted)
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(running.url + path)
        expect(page.get_by_label("Your API key")).to_be_focused()
        page.keyboard.type(client.api_key)
        page.keyboard.press("Enter")
        page.wait_for_url(running.url + path)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def test_a_file_becomes_a_model_that_answers(running, client, open_page, tmp_path):
    """The road through the page, with the keyboard where a person would use it."""
    from playwright.sync_api import expect

    (tmp_path / "mine.jsonl").write_bytes(rows(60)[1])
    page = open_page("/")
    page.get_by_role("link", name="Files").press("Enter")
    page.locator("#file").set_input_files(tmp_path / "mine.jsonl")
    expect(page.get_by_role("heading", name="As the model sees them")).to_be_visible()
    page.get_by_label("Name").fill("walk")
    page.get_by_label("Epochs").fill("2")
    page.get_by_label("Epochs").press("Enter")
    page.wait_for_url("**/jobs/**")
    expect(page.locator("#state")).to_have_text("succeeded")
    expect(page.locator("#loss-chart canvas")).to_be_visible()
    steps = client.fine_tuning.jobs.retrieve(page.url.rpartition("/")[2]).model_extra["tunesmith"]["step"]
    expect(page.locator("#step")).to_have_text(f"{steps} / {steps}")
    expect(page.locator("#log")).to_contain_text("The job has successfully completed")
    expect(page.locator("[data-action]:visible")).to_have_count(0)
    name = page.locator("h1").inner_text()
    page.get_by_role("link", name="Try it").click()
    page.get_by_text("Settings").click()
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Most tokens").fill("12")
    page.keyboard.press("Escape")
    page.get_by_label("Your message").fill("Tell me of the pool.")
    page.keyboard.press("Enter")
    expect(page.locator(".answer")).to_have_count(2)
    expect(page.locator(".under-way")).to_have_count(0)
    asked = {"messages": [{"role": "user", "content": "Tell me of the pool."}], "temperature": 0, "max_tokens": 12}
    for place, model in zip(page.locator(".answer").all(), (name, "tiny"), strict=True):
        assert place.locator("header").inner_text() == model
        said = client.chat.completions.create(model=model, **asked).choices[0].message.content
        assert place.locator(".text").text_content() == said
    page.get_by_role("link", name="Models").click()
    page.locator(f"[data-delete='{name}']").click()
    expect(page.get_by_text(name)).to_have_count(0)


def test_a_running_job_is_watched_paused_and_cancelled(client, open_page):
    from playwright.sync_api import expect

    file = client.files.create(file=rows(20), purpose="fine-tune")
    long = {"tunesmith": {**OURS["tunesmith"], "optim": {"batch_size": 1, "steps": 5000}}}
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, extra_body=long)
    page = open_page(f"/jobs/{job.id}")
    expect(page.locator("#step")).to_have_text(re.compile(r"^\d{2,} / 5,000"))
    expect(page.locator("#loss-chart canvas")).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#state")).to_have_text("paused")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#state")).to_have_text("running")
    page.get_by_role("button", name="Cancel").click()  # and the question is answered with yes
    expect(page.locator("#state")).to_have_text("cancelled")
    page.goto(page.url.partition("/jobs/")[0])
    expect(page.locator("#rows")).to_contain_text("cancelled")


def test_what_is_not_taken_is_said(open_page, tmp_path):
    from playwright.sync_api import expect

    page = open_page("/files")
    (tmp_path / "empty.jsonl").write_bytes(b"")
    page.locator("#file").set_input_files(tmp_path / "empty.jsonl")
    expect(page.get_by_role("alert")).to_have_text("The file is empty.")
    page.goto(page.url.replace("/files", "/jobs/ftjob-none"))
    expect(page.locator("main")).to_contain_text("Could not find fine tune: ftjob-none")


def test_names_and_contents_are_text_and_never_run(client, open_page):
    from playwright.sync_api import expect

    evil = "<img src=x onerror=alert(1)><script>alert(1)</script>"
    talks = [[{"role": "user", "content": i + evil}, {"role": "assistant", "content": evil}] for i in "abcdefghijkl"]
    content = "".join(json.dumps({"messages": talk}) + "\n" for talk in talks)
    file = client.files.create(file=(f"{evil.replace('/', '')}.jsonl", content.encode()), purpose="fine-tune")
    page = open_page(f"/files/{file.id}")
    dialogs = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    expect(page.get_by_role("heading", name="As the model sees them")).to_be_visible()
    expect(page.locator(".sample").first).to_contain_text("<script>alert(1)</script>")
    assert page.locator("main img, main script").count() == 0
    assert dialogs == []


def test_pages_fit_a_phone_and_are_light_or_dark(running, client, done, open_page):
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True}
    page = open_page("/", color_scheme="dark", **phone)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    for path in ("/", "/models", "/chat", "/files", f"/jobs/{done.id}", f"/files/{done.training_file}"):
        page.goto(running.url + path)
        page.wait_for_timeout(300)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 360, (path, wide)
        unnamed = page.locator("input:not([type=hidden]), select, textarea, button").evaluate_all(
            "all => all.filter(one => !(one.labels?.length || one.ariaLabel || one.textContent.trim())).length"
        )
        assert unnamed == 0, path
    page.locator("#theme").click()
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.goto(running.url)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == light != dark
