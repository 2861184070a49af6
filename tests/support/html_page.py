"""A parser that collects what a test checks of an HTML page."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The text, headings, figures and tags of a page, and the URLs a browser would fetch; asserts that tags close."""

    VOID = ("meta", "br", "img", "link")

    def __init__(self, html):
        super().__init__()
        self.open, self.headings, self.fetched, self.text = [], [], [], ""
        self.trained, self.figures, self.tags = [], 0, set()
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.fetched += [v for k, v in given.items() if k in ("src", "href", "xlink:href") and not v.startswith("#")]
        self.figures += tag == "figure"
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append((tag, given.get("class") or ""))

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        tag, classes = self.open[-1] if self.open else ("", "")
        if tag in ("style", "script"):
            return
        if tag in ("h1", "h2", "h3"):
            self.headings.append(data)
        if tag == "span" and "trained" in classes.split() and any("tokens" in c.split() for _, c in self.open[:-1]):
            self.trained.append(data)
        self.text += data
