// The stream's grammar, in any pieces.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parser } from '../dist/sse.js';

const blocks = (text, size) => {
  const got = [];
  const feed = parser((block) => got.push(block));
  for (let at = 0; at < text.length; at += size) feed(text.slice(at, at + size));
  return got;
};

test('a stream reads the same in any pieces and with any line ends', () => {
  const text = 'retry: 10\nid: a-1\n\n: heartbeat\n\nevent: x\ndata: one\ndata:two: 2\ndata\nid: a-2\n\ndata: last\n\nnot yet';
  const want = [
    { retry: '10', id: 'a-1' },
    {},
    { event: 'x', data: 'one\ntwo: 2\n', id: 'a-2' },
    { data: 'last' },
  ];
  for (const end of ['\n', '\r\n', '\r']) {
    for (let size = 1; size < 40; size += 1) assert.deepEqual(blocks(text.replaceAll('\n', end), size), want, `${JSON.stringify(end)} by ${size}`);
  }
});

test('only CR and LF end a line: other separators of Unicode are text', () => {
  for (const odd of ['\u2028', '\u2029', '\u0085', '\v', '\f']) {
    assert.deepEqual(blocks(`data: a${odd}b\n\ndata: c\n\n`, 3), [{ data: `a${odd}b` }, { data: 'c' }], escape(odd));
  }
});

test('a block is handed out as soon as its last CR is there', () => {
  const got = [];
  const feed = parser((block) => got.push(block));
  feed('data: a\r\r');
  assert.deepEqual(got, [{ data: 'a' }]);
  feed('\ndata: b\r\n');
  feed('');
  feed('\r');
  feed('\n');
  assert.deepEqual(got, [{ data: 'a' }, { data: 'b' }]);
});
