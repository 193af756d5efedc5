"""Five rivals of RPO as losses of one's own, beside the kit's methods in the partition lab:

    python -m rpo_nb lab --method examples/rivals.py:a_star examples/rivals.py:dro_fixed

Each takes tensors of n rows and returns one loss a row, float [n] (docs/own_objective.md says what
the arguments are). `temperature` is the one that is tuned, over the values of the function's
`temperatures`, three each, so that the kit's methods have as many settings on every page. What else
a loss needs is an argument with a default: change it here. Rewards are standardised: mean 0,
standard deviation 1. ρ = policy_logps − ref_logps, a sum over tokens, in nats.
"""

import torch

from rpo_nb import checks, objectives, partition

SEEN = {True: 0, False: 0}  # desirable and other rows that kto_balanced was given so far


def v_star(ref_rewards, beta1):
    """V*(x) = β1·log mean_i exp(r_i/β1), over m samples of the reference for each row's prompt.
    [n, m] -> [n]

    The kit's Monte-Carlo log Ẑ, in log space and float64; each row counts as a prompt of its own.
    """
    n, m = ref_rewards.shape
    rewards, rows = ref_rewards.reshape(-1), torch.arange(n).repeat_interleave(m)
    log_z = partition.log_partition(
        torch.zeros_like(rewards),  # samples of the reference carry its weight already
        rewards,
        rows.to(rewards.device),
        tau=beta1,
        estimator="monte_carlo",
    )
    return beta1 * log_z.view(n, m)[:, 0]


def a_star(policy_logps, ref_logps, rewards, ref_rewards, temperature, beta1=1.0):
    """A*-PO on rows that are there: ½(r − V*(x) − β2·ρ)². [n] each, ref_rewards [n, m] -> [n]

    Brantley et al. 2025 (arXiv 2505.20686): V* from samples of the reference before training, then
    least squares on the optimal advantage r − V*. Theirs has no ½, and its second stage samples one
    completion a prompt from the policy itself; here the rows of the data stand in for those.
    temperature: β2, of the regression. beta1: β1, of V*; their code has β1 = 1/2 and β2 = 0.001,
    for rewards of 0 and 1, whose standard deviation is at most 1/2: a β1 of 1 here.
    """
    return objectives.dro(
        policy_logps, ref_logps, rewards, v_star(ref_rewards, beta1), tau=temperature
    )


def dro_fixed(policy_logps, ref_logps, rewards, prompt_ids, temperature, baseline=None):
    """DRO with a baseline that is not trained: ½(r − b − τρ)². [n] each -> [n]

    What hosted trainers call DRO: they maximise A·log πθ − ½τρ² with an advantage A that the user
    computes (Tinker's loss "dro", after Richemond et al. 2024, arXiv 2405.19107, and Kimi k1.5,
    arXiv 2501.12599). With A = r − b this loss is −τ times that, and a constant. Theirs squares the
    log-ratio of each token, this one that of the completion, as both papers do.
    temperature: τ. baseline: b, a number for all rows; None: the mean reward of the prompt's rows,
    Kimi k1.5's stand-in for τ·log Z.
    """
    if baseline is None:
        _, of_row, counts = prompt_ids.unique(return_inverse=True, return_counts=True)
        sums = torch.zeros_like(counts, dtype=rewards.dtype).index_add(0, of_row, rewards)
        values = (sums / counts)[of_row]
    else:
        values = torch.full_like(rewards, baseline)
    return objectives.dro(policy_logps, ref_logps, rewards, values, tau=temperature)


def reward_weighted(policy_logps, rewards, temperature):
    """Reward-weighted fine-tuning: −exp(r/τ)·log πθ. [n] each -> [n]

    Imitation, each row as often as its reward says (Peters and Schaal 2007, "Reinforcement learning
    by reward-weighted regression"). temperature: τ; ∞ is SFT, 0 the data's best row. Nothing holds
    the policy near the reference but the data.
    """
    return torch.exp(rewards / temperature) * objectives.sft(policy_logps)


def qrpo_per_token(policy_logps, ref_logps, rewards, ref_rewards, lengths, temperature):
    """QRPO whose β is divided by the completion's length: (q − β_y·log Z(β_y) − β_y·ρ)² with
    β_y = β/|y|. [n] each, ref_rewards [n, m] -> [n]

    q: share of ref_rewards that are <= r; Z(b) = b(e^(1/b) − 1). Apertus (arXiv 2509.14233, section
    4.3, "Length-normalized QRPO", which divides β everywhere, also in Z), after Matrenok et al.
    2025 (arXiv 2507.08068).
    temperature: β before it is divided; theirs is 5, about 0.03 a token of their long completions.
    """
    beta = temperature / lengths.to(policy_logps.dtype)
    quantile = (ref_rewards <= rewards[:, None]).to(policy_logps.dtype).mean(1)
    # log b + 1/b + log(1 − e^(−1/b)), as `objectives.qrpo_log_partition`, but with one b a row
    log_z = beta.log() + 1 / beta + torch.log(-torch.expm1(-1 / beta))
    return (quantile - beta * log_z - beta * (policy_logps - ref_logps)) ** 2


def balance(desirable, undesirable, ratio=1.0):
    """(λ_D, λ_U) with λ_D·n_D = ratio·λ_U·n_U, the smaller of them 1; 1 and 1 while there is only
    one kind. Ethayarajh et al. 2024 (arXiv 2402.01306), eq. 8, has a ratio of 1 to 4/3."""
    if not desirable or not undesirable:
        return 1.0, 1.0
    weight = checks.number("ratio", ratio, above=0.0) * undesirable / desirable
    return max(1.0, weight), max(1.0, 1 / weight)


def kto_balanced(
    policy_logps, ref_logps, desirable, kl, temperature, lambda_d=None, lambda_u=None, ratio=1.0
):
    """KTO with weights: λ_D(1 − σ(β(ρ − z0))) where desirable, else λ_U(1 − σ(β(z0 − ρ))). [n]
    each, kl a number -> [n]

    Ethayarajh et al. 2024 (arXiv 2402.01306), eq. 7. temperature: β. lambda_d, lambda_u: λ_D and
    λ_U; with both None `balance` sets them by how many desirable and other rows this training has
    seen, this call's included, and ratio. A call holds a few prompts, so the first steps weigh by
    few rows; from the end of the first epoch on the share is the data's. (A training that goes on
    from a checkpoint counts anew.) One that is None beside one that is given is 1.
    """
    if lambda_d is None and lambda_u is None:
        for kind in SEEN:
            SEEN[kind] += int((desirable == kind).sum())
        lambda_d, lambda_u = balance(SEEN[True], SEEN[False], ratio)
    return objectives.kto(
        policy_logps,
        ref_logps,
        desirable,
        kl,
        beta=temperature,
        lambda_d=1.0 if lambda_d is None else lambda_d,
        lambda_u=1.0 if lambda_u is None else lambda_u,
    )


a_star.temperatures = dro_fixed.temperatures = [0.1, 0.3, 1.0]
reward_weighted.temperatures = kto_balanced.temperatures = [0.3, 1.0, 3.0]
qrpo_per_token.temperatures = [2.0, 5.0, 20.0]  # 0.1 to 1 for a completion of 20 tokens
