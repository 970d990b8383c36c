// Finds faults in the looks of any page: texts that are cut, broken, overlapping or hard to read, and controls
// that are too small.

/** Returns a line for each visible fault. A text that ends in an ellipsis is no fault if its title has all of it. */
export const looks = (page) => page.evaluate(() => {
  const faults = [];
  const { innerWidth: width, innerHeight: height } = window;
  if (document.documentElement.scrollWidth > width) faults.push(`the page is ${document.documentElement.scrollWidth} px wide on a screen of ${width}`);

  const style = (node) => getComputedStyle(node);
  const isInline = (node) => style(node).display === 'inline';
  const boxOf = (node) => { while (isInline(node)) node = node.parentElement; return node; };
  const name = (node) => `${node.tagName.toLowerCase()}${node.id ? `#${node.id}` : ''}${node.className && typeof node.className === 'string' ? `.${node.className}` : ''}`;
  const quote = (text) => `“${text.trim().slice(0, 40)}”`;

  // Colours as bytes with an alpha.
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const known = new Map();
  const bytes = (color) => {
    if (!known.has(color)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = color;
      canvas.fillRect(0, 0, 1, 1);
      known.set(color, [...canvas.getImageData(0, 0, 1, 1).data]);
    }
    return known.get(color);
  };
  const over = ([r, g, b, a], [R, G, B]) => [[r, R], [g, G], [b, B]].map(([top, under]) => (top * a + under * (255 - a)) / 255);
  const backOf = (node) => {
    const layers = [];
    for (let one = node; one; one = one.parentElement) {
      layers.push(bytes(style(one).backgroundColor));
      if (layers.at(-1)[3] === 255) break;
    }
    return layers.reduceRight((under, top) => over(top, under), [255, 255, 255]);
  };
  const light = (color) => {
    const [r, g, b] = color.map((c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };

  const seen = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode, node = text.parentElement;
    if (!text.data.trim() || !node.checkVisibility({ visibilityProperty: true, contentVisibilityAuto: true }) || ['SCRIPT', 'STYLE'].includes(node.tagName)) continue;
    const range = document.createRange();
    range.selectNodeContents(text);
    // A scrolling part is checked at its present place, downwards. To the side nothing may be out of sight.
    let port = { left: 0, right: width, top: 0, bottom: height }, hasEllipsis = false, cutBy = null, isOut = false;
    const [first] = range.getClientRects();
    if (!first) continue;
    const whole = range.getBoundingClientRect();
    for (let one = node; one && one !== document.documentElement; one = one.parentElement) {
      const { overflowX, overflowY, textOverflow, webkitLineClamp } = style(one);
      if (overflowX === 'visible' && overflowY === 'visible') continue;
      const box = one.getBoundingClientRect();
      if (textOverflow === 'ellipsis' || webkitLineClamp !== 'none') hasEllipsis = true;
      if (whole.right > box.right + 1 || whole.left < box.left - 1) cutBy ??= one;
      if (overflowY === 'hidden' && one !== document.body && (whole.bottom > box.bottom + 1 || whole.top < box.top - 1) && !one.querySelector(':scope > .scroller')) cutBy ??= one;
      port = { left: Math.max(port.left, box.left), right: Math.min(port.right, box.right), top: Math.max(port.top, box.top), bottom: Math.min(port.bottom, box.bottom) };
    }
    // A strip of chips may go on to the side. Its last visible chip is cut, which shows that there are more.
    const isStrip = node.closest('#domains') !== null;
    const rects = [...range.getClientRects()].map(({ left, right, top, bottom }) => ({ left: Math.max(left, port.left), right: Math.min(right, port.right), top: Math.max(top, port.top), bottom: Math.min(bottom, port.bottom) }))
      .filter((rect) => rect.right - rect.left > 1 && rect.bottom - rect.top > 1);
    if (whole.bottom < port.top || whole.top > port.bottom) isOut = true;
    if (isOut) continue;
    const shown = rects.filter((rect) => {
      const hit = document.elementFromPoint((rect.left + rect.right) / 2, (rect.top + rect.bottom) / 2);
      return hit && (hit === node || hit.contains(node) || node.contains(hit));
    });
    if (rects.length > 0 && shown.length === 0) continue;
    if (cutBy && !isStrip && !(hasEllipsis && node.closest('[title]'))) faults.push(`${quote(text.data)} in ${name(node)} is cut by ${name(cutBy)}`);
    // Words that are broken although they are not long names.
    if (rects.length > 1 && !node.closest('pre')) {
      for (const { 0: word, index } of text.data.matchAll(/\p{L}{2,20}(?=[\s.,;]|$)/gu)) {
        range.setStart(text, index);
        range.setEnd(text, index + word.length);
        const lines = new Set([...range.getClientRects()].map((rect) => Math.round(rect.top)));
        if (lines.size > 1 && (index === 0 || /\s/.test(text.data[index - 1]))) faults.push(`the word ${quote(word)} in ${name(node)} is broken`);
      }
    }
    const { color, fontSize, fontWeight, opacity } = style(node);
    const back = backOf(node), fore = over(bytes(color), back), [a, b] = [light(fore), light(back)];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const isLarge = parseFloat(fontSize) >= 24 || (parseFloat(fontSize) >= 18.66 && Number(fontWeight) >= 700);
    if (contrast < (isLarge ? 3 : 4.5) && !node.closest('[aria-hidden=true]') && opacity === '1') faults.push(`${quote(text.data)} in ${name(node)} has a contrast of ${contrast.toFixed(2)}`);
    for (const rect of shown) seen.push({ rect, node, box: boxOf(node), text: text.data });
  }

  // Texts of different boxes must not overlap, and not be so close that they read as one.
  for (const [i, one] of seen.entries()) {
    for (const other of seen.slice(i + 1)) {
      if (one.box === other.box || one.box.contains(other.box) || other.box.contains(one.box)) continue;
      const [a, b] = [one.rect, other.rect];
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left), down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      // Lines of text overlap a little by their descenders.
      if (across > 1 && down > 5) faults.push(`${quote(one.text)} and ${quote(other.text)} are on each other`);
      else if (down > 5 && across > -3 && across <= 1) faults.push(`${quote(one.text)} and ${quote(other.text)} touch`);
    }
  }

  // A button has at least 24 px each way (WCAG 2.5.8).
  for (const node of document.querySelectorAll('button, input, [tabindex="0"]')) {
    if (!node.checkVisibility({ visibilityProperty: true })) continue;
    const { width, height } = node.getBoundingClientRect();
    if (width < 24 || height < 24) if (!node.matches('[role=slider]')) faults.push(`${name(node)} is ${width.toFixed()} by ${height.toFixed()} px`);
  }
  return [...new Set(faults)];
});
