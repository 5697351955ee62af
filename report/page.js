// SPDX-License-Identifier: Apache-2.0
// Draws the report's charts from the JSON in #chart-data. A page opened as report.html#chart=NAME shows
// that chart alone, for a picture of it. Every chart's numbers stand in a table of the page as well.
'use strict';
(() => {
  const data = JSON.parse(document.getElementById('chart-data').textContent);
  const dark = window.matchMedia('(prefers-color-scheme: dark)');
  const colors = {  // Okabe and Ito's, which colour-blind readers tell apart; light, dark
    base: ['#6b7280', '#a3aab5'],
    others: [['#0072b2', '#56b4e9'], ['#d55e00', '#ff9a4d'], ['#009e73', '#3fd0a6'],
      ['#b5548c', '#e49ac4'], ['#8a6d00', '#f0e442'], ['#5b4bb5', '#b3a6ff'], ['#444444', '#dddddd']],
  };
  const points = [['rect', 0], ['triangle', 0], ['rectRot', 0], ['triangle', 180], ['rectRounded', 0], ['triangle', 90], ['triangle', 270]];
  const dashes = [[], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [1, 3], [10, 4]];
  const labels = {
    reward: 'reward', u_mean: 'mean u', t_mean: 'mean t', boundary_mass: 'share of t in 0.4\u20130.6',
    kl: 'KL to the base', 'completions/mean_length': 'length, tokens',
  };
  let charts = [];
  let printing = false;

  const isDark = () => dark.matches && !printing;
  const ink = () => (isDark() ? '#e6e8eb' : '#1f2328');
  const faint = () => (isDark() ? '#3a4048' : '#d5d9df');
  const place = (arm) => data.arms.filter((a) => a.name !== 'base').findIndex((a) => a.name === arm);
  const color = (arm) => {
    const pair = arm === 'base' ? colors.base : colors.others[Math.max(0, place(arm)) % colors.others.length];
    return pair[isDark() ? 1 : 0];
  };
  const point = (arm) => (arm === 'base' ? ['circle', 0] : points[Math.max(0, place(arm)) % points.length]);
  const style = (arm) => ({ pointStyle: point(arm)[0], pointRotation: point(arm)[1] });
  const dash = (arm) => (arm === 'base' ? [] : dashes[place(arm) % dashes.length]);
  const axis = (text, more) => ({
    title: { display: true, text, color: ink() }, ticks: { color: ink() }, grid: { color: faint() },
    ...more,
  });

  function draw(id, config) {
    const canvas = document.getElementById(id);
    if (!canvas) return;
    config.options = {
      animation: false, maintainAspectRatio: false, responsive: true, ...config.options,
      plugins: { legend: { labels: { color: ink(), usePointStyle: true } }, ...(config.options.plugins || {}) },
    };
    charts.push(new Chart(canvas, config));
  }

  // A vertical line where the filter's threshold is, on an axis of bins from `low` to `high`.
  const threshold = (low, high) => ({
    id: 'threshold',
    afterDatasetsDraw(chart) {
      const { left, right, top, bottom } = chart.chartArea;
      const x = left + (right - left) * (data.tau - low) / (high - low);
      const context = chart.ctx;
      context.save();
      context.strokeStyle = context.fillStyle = ink();
      context.setLineDash([5, 4]);
      context.beginPath(); context.moveTo(x, top); context.lineTo(x, bottom); context.stroke();
      context.font = '12px sans-serif';
      context.fillText('threshold', x + 4, top + 12);
      context.restore();
    },
  });

  function histogram(id, low, high) {
    const arms = Object.keys(data.histogram);
    if (!arms.length) return;
    const count = data.histogram[arms[0]].length;
    const kept = [...Array(count).keys()].filter((i) => i / count >= low - 1e-9 && (i + 1) / count <= high + 1e-9);
    draw(id, {
      type: 'bar',
      data: {
        labels: kept.map((i) => `${(i / count).toFixed(2)}\u2013${((i + 1) / count).toFixed(2)}`.replace(/\b0\./g, '.')),
        datasets: arms.map((arm) => ({
          label: arm === 'base' ? 'base (before)' : `${arm} (after)`, data: kept.map((i) => data.histogram[arm][i]),
          backgroundColor: color(arm), pointStyle: 'rect', categoryPercentage: 0.9, barPercentage: 1,
        })),
      },
      options: { scales: {
        x: axis('t, the guard\u2019s probability of unsafe'),
        y: axis('share of answers', { beginAtZero: true }),
      } },
      plugins: [threshold(low, high)],
    });
  }

  const arrows = (pairs) => ({
    id: 'arrows',
    afterDatasetsDraw(chart) {
      const context = chart.ctx;
      for (const { from, to, arm, bold } of pairs) {
        const x0 = chart.scales.x.getPixelForValue(from.x), y0 = chart.scales.y.getPixelForValue(from.y);
        const x1 = chart.scales.x.getPixelForValue(to.x), y1 = chart.scales.y.getPixelForValue(to.y);
        const length = Math.hypot(x1 - x0, y1 - y0);
        if (length < 14) continue;
        const ux = (x1 - x0) / length, uy = (y1 - y0) / length;
        const tipX = x1 - 8 * ux, tipY = y1 - 8 * uy;
        context.save();
        context.strokeStyle = context.fillStyle = color(arm);
        context.lineWidth = bold ? 2.5 : 1.2;
        if (!bold) context.setLineDash([4, 3]);
        context.beginPath(); context.moveTo(x0 + 7 * ux, y0 + 7 * uy); context.lineTo(tipX, tipY); context.stroke();
        context.setLineDash([]);
        context.beginPath(); context.moveTo(tipX, tipY);
        context.lineTo(tipX - 9 * ux - 5 * uy, tipY - 9 * uy + 5 * ux);
        context.lineTo(tipX - 9 * ux + 5 * uy, tipY - 9 * uy - 5 * ux);
        context.fill();
        context.restore();
      }
    },
  });

  // Intervals of the filled points, as crosses.
  const intervals = {
    id: 'intervals',
    beforeDatasetsDraw(chart) {
      const context = chart.ctx;
      for (const arm of data.arms) {
        const { harm, help, harm_interval: h, help_interval: p } = arm.system;
        if (harm === null || help === null || !h || !p) continue;
        const x = (v) => chart.scales.x.getPixelForValue(v), y = (v) => chart.scales.y.getPixelForValue(v);
        context.save();
        context.strokeStyle = color(arm.name);
        context.beginPath(); context.moveTo(x(h[0]), y(help)); context.lineTo(x(h[1]), y(help)); context.stroke();
        context.beginPath(); context.moveTo(x(harm), y(p[0])); context.lineTo(x(harm), y(p[1])); context.stroke();
        context.restore();
      }
    },
  };

  function plane() {
    const known = data.arms.filter((a) => a.system.harm !== null && a.system.help !== null);
    const at = (part) => ({ x: part.harm, y: part.help });
    const pairs = known.filter((a) => a.raw.harm !== null).map((a) => (
      { from: at(a.raw), to: at(a.system), arm: a.name, bold: false }));
    const base = known.find((a) => a.name === 'base');
    const headline = known.find((a) => a.name === data.headline);
    if (base && headline)
      pairs.push({ from: at(base.system), to: at(headline.system), arm: headline.name, bold: true });
    draw('plane', {
      type: 'scatter',
      data: { datasets: known.flatMap((a) => [
        { label: `${a.name} + filter`, data: [at(a.system)], backgroundColor: color(a.name),
          borderColor: color(a.name), pointRadius: 7, clip: 10, arm: a.name, ...style(a.name) },
        { label: `${a.name} alone`, data: [at(a.raw)], backgroundColor: 'transparent',
          borderColor: color(a.name), borderWidth: 2, pointRadius: 6, clip: 10, ...style(a.name) },
      ]) },
      options: {
        scales: {
          x: axis('harm, 0 to 3 (left is better)', { min: 0, grace: '8%' }),
          y: axis('help, 1 to 4 (up is better)', { grace: '8%' }),
        },
        plugins: { legend: { onClick: null, labels: { color: ink(), usePointStyle: true,
          filter: (item, all) => all.datasets[item.datasetIndex].arm } } },
      },
      plugins: [intervals, arrows(pairs)],
    });
  }

  // One legend for all learning curves; an arm stands there once, however many runs it has.
  function curveLegend() {
    const list = document.getElementById('curve-legend');
    if (!list) return;
    list.replaceChildren(...[...new Set(data.curves.map((c) => c.arm))].map((arm) => {
      const item = document.createElement('li');
      const picture = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
      const line = document.createElementNS('http://www.w3.org/2000/svg', 'line');
      picture.setAttribute('aria-hidden', 'true');
      for (const [key, value] of Object.entries({ x1: 0, x2: '100%', y1: '50%', y2: '50%', stroke: color(arm),
        'stroke-width': 2, 'stroke-dasharray': dash(arm).join(' ') })) line.setAttribute(key, value);
      picture.append(line);
      item.append(picture, arm);
      return item;
    }));
  }

  function curves() {
    curveLegend();
    for (const name of Object.keys(labels)) {
      const id = `curve-${name.replace('/', '-')}`;
      draw(id, {
        type: 'line',
        data: { datasets: data.curves.filter((c) => c.values[name]).map((c) => ({
          label: c.arm, data: c.values[name].map(([x, y]) => ({ x, y })), borderColor: color(c.arm),
          backgroundColor: color(c.arm), borderWidth: 1.5, borderDash: dash(c.arm), pointRadius: 0, spanGaps: true,
        })) },
        options: {
          interaction: { mode: 'nearest', intersect: false },
          scales: { x: axis('step', { type: 'linear' }), y: axis(labels[name]) },
          plugins: { legend: { display: false } },
        },
      });
    }
  }

  function reliability() {
    const arms = Object.keys(data.reliability).filter((arm) => data.reliability[arm].length);
    draw('reliability', {
      type: 'scatter',
      data: { datasets: arms.map((arm) => ({
        label: arm, showLine: true, borderColor: color(arm), backgroundColor: color(arm), borderDash: dash(arm),
        ...style(arm), data: data.reliability[arm].map((b) => ({ x: b.t, y: b.harmful, n: b.n })),
        pointRadius: data.reliability[arm].map((b) => 3 + 2 * Math.log10(b.n)),
      })).concat([{ label: 'calibrated', showLine: true, data: [{ x: 0, y: 0 }, { x: 1, y: 1 }], pointRadius: 0,
        borderColor: faint(), borderDash: [4, 4], pointStyle: 'line' }]) },
      options: {
        scales: {
          x: axis('mean t of the bin', { min: 0, max: 1 }),
          y: axis('share judged harmful (2 or 3)', { min: 0, max: 1 }),
        },
        plugins: {
          legend: { labels: { color: ink(), usePointStyle: true } },
          tooltip: { callbacks: { label: (c) => `${c.dataset.label}: t ${c.raw.x.toFixed(3)}, harmful ${c.raw.y.toFixed(3)}, ${c.raw.n} answers` } },
        },
      },
    });
  }

  function pareto() {
    draw('pareto', {
      type: 'scatter',
      data: { datasets: data.sweep.map((s) => ({
        label: s.arm, showLine: true, borderColor: color(s.arm), borderDash: dash(s.arm), borderWidth: 1.2,
        ...style(s.arm), clip: 10, pointRadius: s.points.map((p) => (p.front ? 6 : 3)),
        pointBackgroundColor: s.points.map((p) => (p.front ? color(s.arm) : 'transparent')),
        backgroundColor: color(s.arm), data: s.points.map((p) => ({ x: p.harm, y: p.help, tau: p.tau })),
      })) },
      options: {
        scales: {
          x: axis('harm with filter (left is better)', { min: 0, grace: '5%' }),
          y: axis('help with filter (up is better)', { grace: '5%' }),
        },
        plugins: {
          legend: { labels: { color: ink(), usePointStyle: true } },
          tooltip: { callbacks: { label: (c) => `${c.dataset.label}, threshold ${c.raw.tau > 1 ? 'none' : c.raw.tau}: harm ${c.raw.x.toFixed(3)}, help ${c.raw.y.toFixed(3)}` } },
        },
      },
    });
  }

  function drawAll() {
    charts.forEach((chart) => chart.destroy());
    charts = [];
    histogram('histogram', 0, 1);
    histogram('histogram-near', Math.max(0, Math.round(20 * data.tau - 5) / 20), Math.min(1, Math.round(20 * data.tau + 5) / 20));
    plane();
    curves();
    reliability();
    pareto();
    document.body.dataset.charts = charts.length;  // For whoever looks whether they were drawn.
  }

  const alone = /^#chart=([\w-]+)$/.exec(window.location.hash);
  const figure = alone && document.getElementById(`figure-${alone[1]}`);
  if (figure) {
    document.body.classList.add('alone');
    figure.classList.add('alone');
    document.body.replaceChildren(figure, document.getElementById('chart-data'));
  }
  drawAll();
  dark.addEventListener('change', drawAll);
  window.addEventListener('beforeprint', () => { printing = true; drawAll(); });
  window.addEventListener('afterprint', () => { printing = false; drawAll(); });
})();
