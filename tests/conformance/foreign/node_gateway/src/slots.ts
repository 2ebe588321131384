// How many transfers run at a time, in total, in a sandbox and of one caller (RLY-9, RLY-12, RLY-22, RLY-23).
import { Refusal } from './errors.ts';
import type { Settings } from './settings.ts';
import { Deferred } from './streams.ts';

interface Waiter {
  sandbox: string;
  principal: string;
  turn: Deferred<void>;
}

export class Slots {
  #settings: Settings;
  #running: { sandbox: string; principal: string }[] = [];
  #waiting: Waiter[] = [];

  constructor(settings: Settings) {
    this.#settings = settings;
  }

  /** Transfers of one caller that may run in a sandbox at a time. */
  get perCaller(): number {
    return Math.min(this.#share(this.#settings.maxTransfersPerSandbox), this.#share(this.#settings.maxTransfers));
  }

  get running(): number {
    return this.#running.length;
  }

  /** Waits for a slot; the result frees it. */
  async take(sandbox: string, principal: string, callerLeft: Promise<void>): Promise<() => void> {
    const waiter: Waiter = { sandbox, principal, turn: new Deferred() };
    this.#waiting.push(waiter);
    this.#next();
    const full = new Refusal('TOO_MANY_TRANSFERS', 'the limit on concurrent transfers is reached', { retryAfter: 1 });
    const timer = setTimeout(() => waiter.turn.reject(full), this.#settings.transferWait * 1000);
    void callerLeft.then(() => waiter.turn.reject(full));
    try {
      await waiter.turn.promise;
    } finally {
      clearTimeout(timer);
      this.#waiting = this.#waiting.filter((other) => other !== waiter);
    }
    const slot = { sandbox, principal };
    return () => {
      const index = this.#running.findIndex((other) => other.sandbox === slot.sandbox && other.principal === slot.principal);
      this.#running.splice(index, 1);
      this.#next();
    };
  }

  /** Gives free slots to those that wait; callers with the fewest running transfers come first. */
  #next(): void {
    const running = (waiter: Waiter) => this.#running.filter((other) => other.principal === waiter.principal).length;
    for (;;) {
      const admissible = this.#waiting.filter((waiter) => this.#fits(waiter));
      if (admissible.length === 0) return;
      const chosen = admissible.reduce((best, waiter) => (running(waiter) < running(best) ? waiter : best));
      this.#waiting = this.#waiting.filter((other) => other !== chosen);
      this.#running.push({ sandbox: chosen.sandbox, principal: chosen.principal });
      chosen.turn.resolve();
    }
  }

  #fits({ sandbox, principal }: Waiter): boolean {
    const { maxTransfers, maxTransfersPerSandbox } = this.#settings;
    const here = this.#running.filter((other) => other.sandbox === sandbox);
    const own = (slots: { principal: string }[]) => slots.filter((other) => other.principal === principal).length;
    return (
      this.#running.length < maxTransfers &&
      here.length < maxTransfersPerSandbox &&
      own(this.#running) < this.#share(maxTransfers) &&
      own(here) < this.#share(maxTransfersPerSandbox)
    );
  }

  #share(limit: number): number {
    return Math.max(1, Math.floor(limit * this.#settings.principalShare));
  }
}
