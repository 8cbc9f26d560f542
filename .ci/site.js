// Search over the index of all pages and names, which is read at the first letter; and the sidebar at this page's place. Works from a folder, without a server.
(() => {
  const root = document.documentElement.dataset.root, form = document.getElementById('site-search'), input = document.getElementById('site-q'), hits = document.getElementById('site-hits')
  form.hidden = false
  const here = document.querySelector('#site-nav [aria-current]'), nav = document.getElementById('site-nav')
  if (here && getComputedStyle(nav).position === 'sticky') nav.scrollTop = here.offsetTop - nav.clientHeight / 3

  let loading
  const index = () => loading ||= new Promise((done, fail) => {
    const s = document.createElement('script'); s.src = root + 'index.js'
    s.onload = () => done(window.siteIndex.map(([url, title, place, text]) => ({ url, title, place, text, low: [title, place, text].map(x => x.toLowerCase()) })))
    s.onerror = fail; document.head.append(s)
  })
  // every word must stand somewhere; a name or heading counts more than its page, that more than the text
  const score = (e, words) => words.reduce((sum, w) => {
    if (sum < 0) return sum
    const [title, place, text] = e.low
    const s = title === w ? 100 : title.startsWith(w) ? 40 : title.includes(w) ? 20 : place.includes(w) ? 6 : text.includes(w) ? 3 : -1
    return s < 0 ? -1 : sum + s
  }, 0)
  const mark = (parent, text, words) => { // text with the words marked, as text and never as markup
    const low = text.toLowerCase(); let i = 0
    while (i < text.length) {
      const next = words.map(w => [low.indexOf(w, i), w.length]).filter(([at]) => at >= 0).sort((a, b) => a[0] - b[0])[0]
      if (!next || low.length !== text.length) break
      parent.append(text.slice(i, next[0])); const m = document.createElement('mark'); m.textContent = text.slice(next[0], next[0] + next[1]); parent.append(m); i = next[0] + next[1]
    }
    parent.append(text.slice(i))
  }
  const line = (tag, text, words) => { const t = document.createElement(tag); mark(t, text, words); return t }
  const show = async () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean)
    if (!words.length) return hits.replaceChildren()
    let all
    try { all = await index() } catch { return hits.replaceChildren(line('p', 'The index (index.js) cannot be read.', [])) }
    const found = all.map(e => [score(e, words), e]).filter(([s]) => s > 0).sort((a, b) => b[0] - a[0])
    hits.replaceChildren(...found.slice(0, 15).map(([, e]) => {
      const a = document.createElement('a'); a.href = root + e.url
      a.append(line('b', e.title, words), ' ', line('i', e.place, words))
      const at = Math.max(0, Math.min(...words.map(w => e.low[2].indexOf(w)).filter(i => i >= 0)) - 50)
      a.append(line('span', (at > 0 && at < 1e9 ? '… ' : '') + e.text.slice(at < 1e9 ? at : 0).slice(0, 150), words)); return a
    }))
    if (!found.length) hits.append(line('p', 'Nothing found.', []))
  }
  input.addEventListener('input', show); input.addEventListener('focus', show)
  document.addEventListener('keydown', e => {
    const links = [...hits.querySelectorAll('a')], at = links.indexOf(document.activeElement)
    if (e.key === '/' && !/INPUT|TEXTAREA/.test(document.activeElement.tagName)) { e.preventDefault(); input.focus(); input.select() }
    else if (e.key === 'Escape' && form.contains(document.activeElement)) { hits.replaceChildren(); input.blur() }
    else if (form.contains(document.activeElement) && (e.key === 'ArrowDown' || e.key === 'ArrowUp') && links.length) {
      e.preventDefault(); const next = at + (e.key === 'ArrowDown' ? 1 : -1); (next < 0 ? input : links[Math.min(next, links.length - 1)]).focus()
    }
  })
  form.addEventListener('submit', async e => { e.preventDefault(); await show(); hits.querySelector('a')?.click() })
  document.addEventListener('click', e => { if (!form.contains(e.target)) hits.replaceChildren() })
  const asked = new URLSearchParams(location.search).get('q')               // page.html?q=words opens with the hits
  if (asked) { input.value = asked; show() }
})()
