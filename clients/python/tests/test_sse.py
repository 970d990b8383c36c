"""The stream's grammar, in any pieces."""

import unittest

import support  # noqa: F401

from fanwire._sse import Parser


class Grammar(unittest.TestCase):
    def test_a_stream_reads_the_same_in_any_pieces_and_with_any_line_ends(self) -> None:
        text = "retry: 10\nid: a-1\n\n: heartbeat\n\nevent: x\ndata: one ☃\ndata:two: 2\ndata\nid: a-2\n\ndata: last\n\nnot yet"
        want = [
            {"retry": "10", "id": "a-1"}, {}, {"event": "x", "data": "one ☃\ntwo: 2\n", "id": "a-2"}, {"data": "last"},
        ]  # fmt: skip
        for end in ("\n", "\r\n", "\r"):
            data = text.replace("\n", end).encode()
            for size in range(1, 40):
                parser = Parser()
                got = [block for at in range(0, len(data), size) for block in parser.feed(data[at : at + size])]
                self.assertEqual(got, want, (end, size))

    def test_only_cr_and_lf_end_a_line(self) -> None:
        for odd in ("\u2028", "\u2029", "\u0085", "\v", "\f"):
            data = f"data: a{odd}b\n\ndata: c\n\n".encode()
            parser = Parser()
            got = [block for at in range(len(data)) for block in parser.feed(data[at : at + 1])]
            self.assertEqual(got, [{"data": f"a{odd}b"}, {"data": "c"}], repr(odd))

    def test_a_block_is_handed_out_as_soon_as_its_last_cr_is_there(self) -> None:
        parser = Parser()
        pieces = [b"data: a\r\r", b"\ndata: b\r\n", b"", b"\r", b"\n"]
        self.assertEqual([list(parser.feed(piece)) for piece in pieces], [[{"data": "a"}], [], [], [{"data": "b"}], []])


if __name__ == "__main__":
    unittest.main()
