// The jobs of a sweep, a row each.

import { go } from './address.js';
import { el } from './dom.js';
import { chip, more, steps, text, time } from './parts.js';
import { TICKS, ticks } from './side.js';

const BADLY = ['failed', 'killed', 'interrupted', 'unreadable'];
export const isActive = (job) => job.status === 'running';
export const wentWrong = (job) => BADLY.includes(job.status) || job.diverged;

export function jobTable(name, jobs, { sweep }) {
  const columns = [{ heading: 'run' }, { heading: 'status' }, { heading: 'reason' }, { heading: 'seed', is_number: true },
    { heading: 'step', is_number: true }, { heading: 'val loss', is_number: true, title: 'nats per token: of all of val, or the lowest so far' },
    { heading: 'time', is_number: true, title: 'of training, and what is left' }, ...TICKS];
  const hasReasons = jobs.some((job) => job.error);
  const shown = (row) => row.filter((_, i) => i !== 2 || hasReasons);
  const rows = jobs.map((job) => ({ cells: shown([
    job.run === null ? job.name : el('a', { ...go({ sweep, run: job.run }), 'data-key': `run/${name}/${job.run}`, dir: 'auto' }, job.name),
    el('span', {}, chip(job.status), job.diverged ? ' diverged' : ''), job.error ?? '', job.seed ?? '', steps(job),
    job.loss === null || job.loss === undefined ? '' : `${text(job.loss)}${job.is_final ? '' : ' so far'}`, el('span', {}, time(job.seconds), job.left ? el('span', { class: 'quiet' }, ` + ${time(job.left)}`) : ''), ...ticks(job.run, job.name)]) }));
  return more(name, shown(columns), rows);
}
