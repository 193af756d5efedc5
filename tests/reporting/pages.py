"""What the tests of the page share."""

import html.parser


class Page(html.parser.HTMLParser):
    """Collects tags, the addresses they name, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.open, self.misplaced = [], [], [], []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.addresses += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta", "img", "br", "link", "hr", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open[-1:] != [tag]:
            self.misplaced.append(tag)
        self.open.pop()

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += f" {data}"
