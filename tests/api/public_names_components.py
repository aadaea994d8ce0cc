"""The rest of :mod:`tests.api.public_names`: sampling, learning, runners, tools, examples."""

from __future__ import annotations

LEARNING = {
    "sample_factory.algo.learning.learner": """
        LearningRateScheduler()
        KlAdaptiveScheduler(cfg)
        KlAdaptiveSchedulerPerMinibatch(cfg)
        KlAdaptiveSchedulerPerEpoch(cfg)
        LinearDecayScheduler(cfg)
        get_lr_scheduler(cfg)
        model_initialization_data(cfg, policy_id, actor_critic, policy_version, device)
        Learner(cfg, env_info, policy_versions_tensor, policy_id, param_server)
        Learner.init()
        Learner.train(batch)
        Learner.checkpoint_dir(cfg, policy_id)
        Learner.get_checkpoints(checkpoints_dir, pattern="checkpoint_*")
        Learner.load_checkpoint(checkpoints, device)
        Learner.load_from_checkpoint(policy_id, load_progress=True)
        Learner._prepare_batch(batch)
        Learner._calculate_losses(mb, num_invalids)
        Learner._record_summaries(train_loop_vars)
    """,
    "sample_factory.algo.learning.learner_worker": """
        init_learner_process(sf_context, learner_worker)
        LearnerWorker(evt_loop, cfg, env_info, buffer_mgr, batcher, policy_id)
    """,
    "sample_factory.algo.learning.batcher": """
        Batcher(evt_loop, policy_id, buffer_mgr, cfg, env_info)
    """,
    "sample_factory.algo.learning.rnn_utils": """
        build_rnn_inputs(x, dones_cpu, rnn_states, T)
        build_core_out_from_seq(x_seq, inverted_select_inds)
    """,
}

SAMPLING = {
    "sample_factory.algo.sampling.sampler": """
        AbstractSampler(event_loop, buffer_mgr, param_servers, cfg, env_info)
        Sampler
        SerialSampler
        ParallelSampler
    """,
    "sample_factory.algo.sampling.rollout_worker": """
        init_rollout_worker_process(sf_context, worker)
        RolloutWorker
    """,
    "sample_factory.algo.sampling.inference_worker": """
        init_inference_process(sf_context, worker)
        InferenceWorker
    """,
    "sample_factory.algo.sampling.batched_sampling": """
        preprocess_actions(env_info, actions, to_numpy=True)
        process_action_space(actions, gpu_actions, is_discrete, to_numpy=True)
        BatchedVectorEnvRunner(cfg, env_info, num_envs, worker_idx, split_idx, buffer_mgr, sampling_device, \
training_info)
    """,
    "sample_factory.algo.sampling.non_batched_sampling": """
        NonBatchedVectorEnvRunner(cfg, env_info, num_envs, worker_idx, split_idx, buffer_mgr, sampling_device, \
training_info)
    """,
    "sample_factory.algo.sampling.sampling_utils": """
        VectorEnvRunner(cfg, env_info, worker_idx, split_idx, buffer_mgr, sampling_device)
        rollout_worker_device(worker_idx, cfg, env_info)
        record_episode_statistics_wrapper_stats(info)
    """,
    "sample_factory.algo.sampling.stats": """
        timing_msg_handler(observer, msg)
        stats_msg_handler(observer, msg)
        samples_stats_handler(observer, msg, policy_id)
    """,
    "sample_factory.algo.sampling.sync_sampling_api": """
        SyncSamplingAPI(cfg, env_info, buffer_mgr=None, param_servers=None)
        SyncSamplingAPI.start(init_model_data=None)
        SyncSamplingAPI.get_trajectories_sync()
        SyncSamplingAPI.stop()
    """,
    "sample_factory.algo.sampling.evaluation_sampling_api": """
        SamplingLoop(cfg, env_info, print_episode_info=True)
        EvalSamplingAPI(cfg, env_info)
        EvalSamplingAPI.init()
        EvalSamplingAPI.start(init_model_data=None)
        EvalSamplingAPI.stop()
        EvalSamplingAPI.eval_stats
        EvalSamplingAPI.eval_episodes
        EvalSamplingAPI.eval_env_steps
    """,
}

RUNNERS = {
    "sample_factory.algo.runners.runner": """
        AlgoObserver()
        AlgoObserver.on_init(runner)
        AlgoObserver.on_connect_components(runner)
        AlgoObserver.on_start(runner)
        AlgoObserver.on_training_step(runner, training_iteration_since_resume)
        AlgoObserver.on_stop(runner)
        MsgHandler
        PolicyMsgHandler
        save_git_diff(directory)
        Runner(cfg, unique_name=None)
        Runner.init()
        Runner.run()
        Runner.register_observer(observer)
        Runner.register_episodic_stats_handler(func)
        Runner.register_msg_handler(key, func)
        Runner.register_policy_msg_handler(key, func)
        Runner.update_reward_shaping(policy_id, reward_shaping)
    """,
    "sample_factory.algo.runners.runner_serial": "SerialRunner(cfg)",
    "sample_factory.algo.runners.runner_parallel": "ParallelRunner(cfg)",
    "sample_factory.pbt.population_based_training": """
        perturb_float(x, perturb_amount=1.2)
        perturb_vtrace(x, cfg)
        perturb_exponential_decay(x, cfg, perturb_amount_min=1.01, perturb_amount_max=1.2)
        perturb_batch_size(x, cfg)
        HYPERPARAMS_TO_TUNE; REWARD_CATEGORIES_TO_TUNE; SPECIAL_PERTURBATION
        policy_cfg_file(cfg, policy_id)
        policy_reward_shaping_file(cfg, policy_id)
        update_cfg_signal(p)
        save_model_signal(p)
        load_model_signal(p)
        PopulationBasedTraining(cfg, runner)
    """,
}

TOOLS = {
    "sample_factory.launcher.launcher_utils": "seeds(num_seeds)",
    "sample_factory.launcher.run": "launcher_argparser(args); parse_args; main",
    "sample_factory.launcher.run_description": """
        ParamGenerator()
        ParamList(combinations)
        ParamGrid(grid_tuples)
        Experiment(name, cmd, param_generator=(), env_vars=None)
        RunDescription(run_name, experiments, experiment_arg_name="--experiment", \
experiment_dir_arg_name="--train_dir", customize_experiment_name=True, param_prefix="--")
        RunDescription.generate_experiments(train_dir, makedirs=True)
    """,
    "sample_factory.launcher.run_processes": "add_os_parallelism_args(parser); run(run_description, args)",
    "sample_factory.launcher.run_slurm": """
        SBATCH_TEMPLATE_DEFAULT
        add_slurm_args(parser)
        run_slurm(run_description, args)
    """,
    "sample_factory.launcher.run_ngc": "add_ngc_args(parser); run_ngc(run_description, args)",
    "sample_factory.huggingface.huggingface_utils": """
        MIN_FRAME_SIZE
        generate_replay_video(dir_path, frames, fps, cfg)
        generate_model_card(dir_path, algo, env, repo_id, rewards=None, enjoy_name=None, train_name=None)
        push_to_hf(dir_path, repo_name)
        load_from_hf(dir_path, repo_id)
    """,
    "sample_factory.huggingface.push_to_hub": "main",
    "sample_factory.huggingface.load_from_hub": "main",
}

UTILS = {
    "sample_factory.utils.attr_dict": "AttrDict",
    "sample_factory.utils.typing": """
        Config; StatusCode; PolicyID; Device; MpQueue; MpLock; Env; ObsSpace; ActionSpace; CreateEnvFunc
        ActionDistribution; InitModelData
    """,
    "sample_factory.utils.dicts": """
        dict_of_lists_append(dict_of_lists, new_data)
        dict_of_lists_append_idx(dict_of_lists, new_data, index)
        iterate_recursively(d)
        iterate_recursively_with_prefix(d, prefix=None)
        copy_dict_structure(d)
        iter_dicts_recursively(d1, d2)
        list_of_dicts_to_dict_of_lists(list_of_dicts)
        get_first_present(d, keys, default=None)
    """,
    "sample_factory.utils.decay": "LinearDecay(milestones, staircase=None); LinearDecay.at(step)",
    "sample_factory.utils.timing": """
        AvgTime; TimingTreeNode; TimingContext
        Timing(name="Profile")
        Timing.timeit(key)
        Timing.add_time(key)
        Timing.time_avg(key, average=10)
        Timing.flat_str(); Timing.tree_str()
        init_global_profiler(t)
    """,
    "sample_factory.utils.network": "is_udp_port_available(port)",
    "sample_factory.utils.gifs": "encode_gif(images, fps)",
    "sample_factory.utils.tb": "main",
    "sample_factory.utils.get_available_gpus": "get_gpus_without_triggering_pytorch_cuda_initialization(envvars=None)",
    "sample_factory.utils.gpu_utils": """
        CUDA_ENVVAR
        set_global_cuda_envvars(cfg)
        get_available_gpus()
        gpus_for_process(process_idx, num_gpus_per_process, gpu_mask=None)
        set_gpus_for_process(process_idx, num_gpus_per_process, process_type, gpu_mask=None)
        cuda_envvars_for_policy(policy_id, process_type)
    """,
    "sample_factory.utils.normalize": "ObservationNormalizer(obs_space, cfg)",
    "sample_factory.utils.wandb_utils": "init_wandb(cfg); finish_wandb(cfg)",
    "sample_factory.utils.algo_version": "ALGO_VERSION",
    "sample_factory.utils.utils": """
        log; has_file_handler(); init_file_logger(cfg)
        is_module_available(module_name)
        set_attr_if_exists
        scale_to_range; op_with_idx; min_with_idx; max_with_idx
        static_vars
        safe_get; safe_put; safe_put_many
        retry(times, exceptions)
        str2bool(v)
        numpy_all_the_way; numpy_flatten; ensure_contigious; figure_to_numpy
        get_free_disk_space_mb(cfg); memory_consumption_mb()
        kill; join_or_kill; list_child_processes; kill_processes
        cores_for_worker_process(worker_idx, num_workers, cpu_count)
        set_process_cpu_affinity(worker_idx, num_workers)
        ensure_dir_exists(path); maybe_ensure_dir_exists(path, mkdir); safe_ensure_dir_exists(path)
        remove_if_exists; get_username
        project_tmp_dir(mkdir=True)
        experiments_dir(cfg, mkdir=True); wandb_dir(cfg, mkdir=True); experiment_dir(cfg, mkdir=True)
        summaries_dir(experiment_dir_, mkdir=True)
        cfg_file(cfg); cfg_file_old(cfg)
        git_root(); get_git_commit_hash(); save_git_diff(directory)
        log_every_n(n, level, msg, *args)
        debug_log_every_n(n, msg, *args)
    """,
}

EXAMPLES = {
    "sf_examples.train_custom_env_custom_model": """
        CustomEnv(full_env_name, cfg, render_mode=None)
        make_custom_env_func(full_env_name, cfg=None, _env_config=None, render_mode=None)
        add_extra_params(parser)
        override_default_params(parser)
        CustomEncoder(cfg, obs_space)
        make_custom_encoder(cfg, obs_space)
        register_custom_components()
        parse_custom_args(argv=None, evaluation=False)
        main()
    """,
    "sf_examples.enjoy_custom_env_custom_model": "main()",
    "sf_examples.train_custom_multi_env": """
        CustomMultiEnv
        make_custom_multi_env_func(full_env_name, cfg=None, _env_config=None, render_mode=None)
        add_extra_params_func
        register_custom_components()
        parse_custom_args(argv=None, evaluation=False)
        main()
    """,
    "sf_examples.train_gym_env": """
        make_gym_env_func(full_env_name, cfg=None, env_config=None, render_mode=None)
        register_custom_components()
        parse_custom_args(argv=None, evaluation=False)
        main()
    """,
    "sf_examples.enjoy_gym_env": "main()",
    "sf_examples.export_onnx_gym_env": "main()",
    "sf_examples.train_pettingzoo_env": """
        make_pettingzoo_env(full_env_name, cfg=None, env_config=None, render_mode=None)
        register_custom_components()
        parse_custom_args(argv=None, evaluation=False)
        main()
    """,
    "sf_examples.mujoco.mujoco_utils": """
        mujoco_available()
        MujocoSpec(name, env_id)
        MUJOCO_ENVS
        mujoco_env_by_name(name)
        make_mujoco_env(env_name, _cfg, _env_config, render_mode=None, **kwargs)
    """,
    "sf_examples.mujoco.mujoco_params": "add_mujoco_env_args(env, parser); mujoco_override_defaults(env, parser)",
    "sf_examples.mujoco.train_mujoco": """
        register_mujoco_components()
        parse_mujoco_cfg(argv=None, evaluation=False)
        main()
    """,
    "sf_examples.mujoco.enjoy_mujoco": "main()",
    "sf_examples.mujoco.fast_eval_mujoco": "main()",
    "sf_examples.atari.atari_utils": """
        AtariSpec(name, env_id, default_timeout=None)
        ATARI_ENVS
        atari_env_by_name(name)
        make_atari_env(env_name, cfg, env_config, render_mode=None)
    """,
    "sf_examples.atari.atari_params": "atari_override_defaults(_env, parser)",
    "sf_examples.atari.train_atari": """
        register_atari_envs()
        register_atari_components()
        parse_atari_args(argv=None, evaluation=False)
        main()
    """,
    "sf_examples.atari.enjoy_atari": "main()",
    "sf_examples.envpool.envpool_utils": "envpool_available(); add_envpool_common_args(env, parser)",
    "sf_examples.envpool.envpool_wrappers": """
        EnvPoolResetFixWrapper
        BatchedRecordEpisodeStatistics(env, num_envs, deque_size=100)
    """,
    "sf_examples.envpool.atari.train_envpool_atari": "parse_atari_args(argv=None, evaluation=False); main()",
    "sf_examples.envpool.mujoco.train_envpool_mujoco": "parse_mujoco_cfg(argv=None, evaluation=False); main()",
    "sf_examples.sampler.use_simplified_sampling_api": """
        generate_trajectories(cfg, env_info, sample_env_steps=1_000_000)
        main
    """,
    "sf_examples.dmlab.dmlab_utils": "dmlab_available(); string_to_hash_bucket(s, vocabulary_size)",
}
